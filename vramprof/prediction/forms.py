"""The table of closed forms: each a small pure function with its formula in words and where it is from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from vramprof.prediction.case import Case


class Moment(Enum):
    """The moments of a step at one of which memory is highest."""

    LOSS = "end of the forward pass, at the loss"
    LOSS_BACKWARD = "backward of the loss"
    HEAD = "backward of the head"
    LAST_LAYER = "backward of the last layer"
    FIRST_LAYER = "backward of the first layer"
    EMBEDDING = "backward of the embedding, gradients complete"
    STEP = "optimizer step"
    PREFILL = "prefill"
    DECODE = "decode"


ALWAYS = tuple(Moment)
BACKWARD = (Moment.LOSS_BACKWARD, Moment.HEAD, Moment.LAST_LAYER, Moment.FIRST_LAYER, Moment.EMBEDDING)
TRAINING = (Moment.LOSS, *BACKWARD, Moment.STEP)
FORWARD = (Moment.LOSS, Moment.LOSS_BACKWARD, Moment.HEAD, Moment.LAST_LAYER)
INFERENCE = (Moment.PREFILL, Moment.DECODE)


@dataclass(frozen=True)
class Form:
    """A closed form. `category` is one of the report's; "outside" is memory that torch does not count."""

    term: str
    category: str
    alive: tuple[Moment, ...]
    formula: str
    source: str
    size: Callable[[Case], float]


_forms: dict[tuple[str, tuple[Moment, ...]], Form] = {}


def form(
    term: str, *, category: str, alive: tuple[Moment, ...], formula: str, source: str
) -> Callable[[Callable[[Case], float]], Callable[[Case], float]]:
    """Register a function `(case) -> bytes` as the closed form of a term, for the moments at which it is alive.

    Raises:
        ValueError: there is one already for that term at one of those moments.
    """

    def register(size: Callable[[Case], float]) -> Callable[[Case], float]:
        for other, moments in _forms:
            if other == term and set(moments) & set(alive):
                raise ValueError(f"two closed forms for {term!r}")
        _forms[term, alive] = Form(term, category, alive, formula, source, size)
        return size

    return register


def all_forms() -> Mapping[tuple[str, tuple[Moment, ...]], Form]:
    """Every form, in the order in which a plan shows them."""
    from vramprof.prediction import (  # noqa: F401 - they register
        forms_activations,
        forms_inference,
        forms_outside,
        forms_overheads,
        forms_states,
    )

    return MappingProxyType(_forms)
