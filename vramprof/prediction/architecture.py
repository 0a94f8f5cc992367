"""Turns a name of the catalog, a `config.json` or dimensions into an architecture.

The catalog (`architectures.toml`) is written in the words of config.json, so one reader serves both.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vramprof.errors import ArchitectureError
from vramprof.prediction.model_config import Architecture, read_config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CATALOG = Path(__file__).with_name("architectures.toml")


def model_names() -> tuple[str, ...]:
    """Every name of the catalog."""
    return tuple(catalog())


def find_architecture(text: str) -> Architecture:
    """A model of the catalog, a `config.json`, a bare number of parameters (`20B`), or `hidden_size=4096,...`.

    Raises:
        ArchitectureError: one line that says what is known and what is not.
    """
    key = text.strip()
    if key.lower().endswith(".json"):
        return read_config(_content(Path(key).expanduser()), name=Path(key).name, where=key)
    if "=" in key:
        return read_config(_pairs(key), name="given by dimensions", where="the dimensions")
    size = re.fullmatch(r"(\d+(?:\.\d+)?)([MBT])", key, re.IGNORECASE)
    if size:
        count = round(float(size[1]) * {"M": 1e6, "B": 1e9, "T": 1e12}[size[2].upper()])
        if count < 1:
            raise ArchitectureError(f"{key}: a model has at least one parameter")
        return Architecture(name=key.upper(), family="parameters", source="given", parameters_stated=count)
    names = {_plain(name): name for name in catalog()}
    plain = _plain(key.rpartition("/")[2])
    if plain not in names:
        near = difflib.get_close_matches(plain, names, n=3)
        hint = f"did you mean {', '.join(names[one] for one in near)}?" if near else "`vramprof plan --list` has them"
        raise ArchitectureError(f"no model {text!r} is known: {hint} A config.json or a size such as 20B will do, too")
    name = names[plain]
    return read_config(catalog()[name], name=name, where=f"{CATALOG.name}: [model.{name}]")


@functools.cache
def catalog() -> Mapping[str, Mapping[str, Any]]:
    """The content of the catalog, in the words of config.json."""
    models: Mapping[str, Mapping[str, Any]] = tomllib.loads(CATALOG.read_text(encoding="utf-8"))["model"]
    return models


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArchitectureError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ArchitectureError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ArchitectureError(f"{path}: not a config.json: no table of fields")
    return content


def _pairs(text: str) -> dict[str, Any]:
    """`hidden_size=4096,num_hidden_layers=32,...`."""
    pairs: dict[str, Any] = {}
    for pair in filter(None, text.split(",")):
        key, _, value = (part.strip() for part in pair.partition("="))
        pairs[key] = int(value) if re.fullmatch(r"-?\d+", value) else {"true": True, "false": False}.get(value, value)
    return pairs


def _plain(name: str) -> str:
    return re.sub(r"[-_. ]", "", name.lower())
