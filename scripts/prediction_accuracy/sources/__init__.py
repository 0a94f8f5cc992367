"""One module per source: its docstring says what was measured, `rows()` yields Row, `EXPLANATIONS` and `GOALS` judge.

`rows()` raises FileNotFoundError where the data is not there.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def all_sources() -> dict[str, ModuleType]:
    """Every module beside this one, by its name."""
    return {one.name: importlib.import_module(f"{__name__}.{one.name}") for one in pkgutil.iter_modules(__path__)}
