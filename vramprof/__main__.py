"""`python -m vramprof` is the `vramprof` command."""

import sys

from vramprof.cli import main

if __name__ == "__main__":
    sys.exit(main())
