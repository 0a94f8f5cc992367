"""Small real programs of every kind that people train and serve with, each run in its own process.

`python -m smoke NAME [--gpu GPU | --real]`, with this folder's parent on PYTHONPATH, runs one; `registry` lists them;
`runner.run` runs one with any interpreter and says what came of it.
"""
