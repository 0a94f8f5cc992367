"""Say what vramprof can do on this machine, and what is missing.

Example:
  vramprof doctor
"""

from __future__ import annotations

import argparse
import platform
import sys

import vramprof


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def execute(arguments: argparse.Namespace) -> int:
    from vramprof.sources.doctor import examine

    print(f"vramprof {vramprof.__version__}, Python {platform.python_version()} on {sys.platform}")
    checks = examine()
    for check in checks:
        print(f"{'ok  ' if check.passed else 'no  '} {check.what}: {check.detail}")
    return 0
