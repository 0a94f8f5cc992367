"""Calls one function of a module or script in this process: what `vramprof.predict(function)` has its child run."""

from __future__ import annotations

import importlib
import pickle
import runpy
import sys
from operator import attrgetter
from pathlib import Path


def main(path: str) -> None:
    """Read which function to call, and with what, from a file that the parent process wrote."""
    home, name, arguments = pickle.loads(Path(path).read_bytes())  # noqa: S301 - our own parent's
    if home.endswith(".py"):
        sys.path.insert(0, str(Path(home).parent))
        function = attrgetter(name)(_Namespace(runpy.run_path(home, run_name="__mp_main__")))
    else:
        function = attrgetter(name)(importlib.import_module(home))
    function(*arguments)


class _Namespace:
    """The globals of a script, by attribute."""

    def __init__(self, names: dict[str, object]) -> None:
        self.__dict__.update(names)


if __name__ == "__main__":
    main(sys.argv[1])
