"""Turns a stranger's pickle into plain data, or refuses it: nothing in the file is ever executed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NoReturn

from vramprof.errors import RecordingError, UnsafeFileError


class _PlainDataUnpickler(pickle.Unpickler):
    """Dicts, lists, tuples, strings and numbers only."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise UnsafeFileError(f"asks for {module}.{name}: a torch snapshot holds plain data only; nothing was executed")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise UnsafeFileError("asks for a persistent object: a torch snapshot holds plain data only")


def load_plain_pickle(path: Path) -> Any:
    """The plain data in a pickle of any protocol.

    Raises:
        UnsafeFileError: it asks for a class or function.
        RecordingError: it is corrupt, cut off, or no pickle.
    """
    try:
        with path.open("rb") as file:
            return _PlainDataUnpickler(file).load()
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{path}: {error}") from None
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # a hostile or damaged stream makes pickle raise almost anything
        raise RecordingError(f"{path}: not a readable pickle ({type(error).__name__}: {error})") from None
