from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from programs import told_by
from vramprof.analyses.allocations import rounded_bytes


@pytest.mark.parametrize(
    ("requested", "rounded"), [(0, 512), (1, 512), (512, 512), (513, 1024), (1_048_577, 1_049_088)]
)
def test_requests_round_up_to_512(requested: int, rounded: int) -> None:
    assert rounded_bytes(requested, {}) == rounded


def test_power_of_two_divisions() -> None:
    assert rounded_bytes(1200 * 1024**2, {1024: 4}) == 1280 * 1024**2
    assert rounded_bytes(1024**3, {1024: 4}) == 1024**3


@given(st.integers(min_value=1, max_value=2**40), st.sampled_from([0, 2, 4, 8, 16]))
def test_rounding_never_shrinks(requested: int, parts: int) -> None:
    rounded = rounded_bytes(requested, {1 << power: parts for power in range(16)})
    assert requested <= rounded <= max(2 * requested, 512)


def test_every_block_size_equals_torchs_own() -> None:
    """Random programs on the emulated device, snapshots in the middle, against sizes replayed from the events alone."""
    told = told_by(
        """
import json, random, torch
from vramprof.analyses.allocations import find_allocations
from vramprof.analyses.timeline import make_timeline
from vramprof.recording import Recorder
from vramprof.sources.snapshot import record_snapshot

torch.cuda.memory._record_memory_history(context="alloc", stacks="python")
random.seed(1)
live, seen = [], []
for turn in range(2000):
    if random.random() < 0.55 or not live:
        live.append(torch.empty(int(2 ** random.uniform(8, 25)), dtype=torch.uint8, device="cuda"))
    else:
        live.pop(random.randrange(len(live)))
    if turn % 700 == 500:
        torch.cuda.empty_cache()
    if turn % 200 == 199:
        snapshot = torch.cuda.memory._snapshot()
        blocks = [b for s in snapshot["segments"] for b in s["blocks"] if b["state"] == "active_allocated"]
        sizes = {b["address"]: b["size"] for b in blocks}
        counters = [torch.cuda.memory_allocated(), torch.cuda.memory_reserved()]
        seen.append((len(snapshot["device_traces"][0]), sizes, counters))
recorder = Recorder(origin="live", emulated=True)
record_snapshot(recorder, torch.cuda.memory._snapshot())
recording = recorder.freeze()
allocations = find_allocations(recording, 0)
timeline = make_timeline(recording, allocations)
wrong = []
for count, sizes, counters in seen:
    alive = allocations.alive(count - 1)
    mine = dict(zip(allocations.address[alive].tolist(), allocations.size_bytes[alive].tolist()))
    wrong += [address for address in mine.keys() | sizes.keys() if mine.get(address) != sizes.get(address)]
    assert counters == [timeline.allocated_bytes[count], timeline.reserved_bytes[count]], (count, counters)
print(json.dumps([len(seen), wrong, int(timeline.allocated_bytes.max()) - torch.cuda.max_memory_allocated()]))
"""
    )
    assert told == [10, [], 0]
