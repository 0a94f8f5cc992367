"""Small programs that leak, each as somebody reported it, and small ones that only look as if they did.

`registry` lists them with what is true of each; `runner.judge` runs one and says what vramprof finds.
"""
