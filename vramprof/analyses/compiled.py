"""Turns lines of generated code into the modules that allocations of a compiled region belong to."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vramprof.analyses.allocations import Allocations
from vramprof.recording import Recording


def modules_in_compiled_code(
    recording: Recording, allocations: Allocations, around: npt.NDArray[np.object_]
) -> npt.NDArray[np.object_]:
    """Each allocation's module: `around`, the module that its span names, or the one inside it that the line of
    generated code on its stack was traced from. Inferred: a fused kernel may do the work of several modules."""
    table = recording.compiled
    if table.empty:
        return around
    lines = zip(table["filename"], table["line"].tolist(), strict=True)
    inside = dict(zip(lines, table["module"], strict=True))
    of_stack = {int(stack): _inside(recording, int(stack), inside) for stack in np.unique(allocations.stack)}
    known = _modules_with_weights(recording)
    found = around.copy()
    for index, stack in enumerate(allocations.stack.tolist()):
        path = of_stack[stack]
        if path:
            outer = str(around[index])
            found[index] = f"{outer}.{path}" if outer in known else path  # a root's own name is in no path of its parts
    return found


def _inside(recording: Recording, stack: int, inside: dict[tuple[str, int], str]) -> str:
    frames = recording.stacks.get(stack)
    return next((found for frame in frames if (found := inside.get((frame.filename, frame.line)))), "")


def _modules_with_weights(recording: Recording) -> set[str]:
    """Every path that is a module's on the way to a weight or buffer."""
    names = recording.tensors[recording.tensors["category"].isin(("weights", "buffers"))]["name"].unique()
    return {str(name)[:place] for name in names for place, letter in enumerate(str(name)) if letter == "."}
