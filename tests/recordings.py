"""Small recordings made through the Recorder, as the sources make them."""

from __future__ import annotations

from vramprof.recording import Frame, Recorder, Recording
from vramprof.recording.schema import Action

MIB = 1024**2
BASE = 0x7F00_0000_0000
SECOND = 1_000_000_000


def training(
    *, steps: int = 3, emulated: bool = True, module: str = "layers.0.mlp", activation_mib: int = 8, rank: int = 0
) -> Recording:
    """Weights that stay, and per step an activation and a gradient, with module, phase and step spans."""
    recorder = Recorder(origin="predicted" if emulated else "live", emulated=emulated)
    recorder.metadata.update(command=["train.py"], torch_version="2.99", rank=rank)
    recorder.add("devices", 0, "Test GPU", 64 * MIB, "8.0", 0, 4 * MIB, 0, 0)
    weights = recorder.stacks.add([Frame("/me/model.py", 3, "build"), Frame("/me/train.py", 1, "<module>")])
    forward = recorder.stacks.add([Frame("/me/model.py", 9, "forward"), Frame("/me/train.py", 7, "<module>")])
    backward = recorder.stacks.add([Frame("/me/train.py", 8, "<module>")])
    now = 1_700_000_000 * SECOND

    def event(action: Action, address: int, size: int, stack: int) -> None:
        nonlocal now
        now += 1_000_000
        recorder.add("events", 0, int(action), address, size, 0, now, stack)

    event(Action.SEGMENT_ALLOC, BASE, 40 * MIB, weights)
    event(Action.ALLOC, BASE, 4 * MIB, weights)
    recorder.add("tensors", now, 0, BASE, 4 * MIB, "weights", f"{module}.weight")
    activation, gradient = BASE + 4 * MIB, BASE + 30 * MIB
    for step in range(steps):
        begin = now + 1
        event(Action.ALLOC, activation, activation_mib * MIB, forward)
        recorder.add("spans", "module", module, begin, now + 1, 1, step)
        recorder.add("spans", "forward", "", begin, now + 1, 1, step)
        middle = now + 2
        event(Action.ALLOC, gradient, 4 * MIB, backward)
        event(Action.FREE_REQUESTED, activation, activation_mib * MIB, backward)
        event(Action.FREE_COMPLETED, activation, activation_mib * MIB, backward)
        recorder.add("spans", "backward", "", middle, now + 1, 1, step)
        event(Action.FREE_REQUESTED, gradient, 4 * MIB, backward)
        event(Action.FREE_COMPLETED, gradient, 4 * MIB, backward)
        recorder.add("spans", "step", "", begin, now + 1, 1, step)
        recorder.add("samples", now, 0, "memory_stats", 4 * MIB, 4 * MIB, 4 * MIB, 40 * MIB, 50 * MIB, 48 * MIB)
    for address, size, state, stack in (
        (BASE, 4 * MIB, "active_allocated", weights),
        (activation, 36 * MIB, "inactive", -1),
    ):
        recorder.add("blocks", 0, BASE, 40 * MIB, "large", "0,0", False, 0, address, size, size, state, stack)
    return recorder.freeze()
