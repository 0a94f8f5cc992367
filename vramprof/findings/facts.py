"""Turns a Recording into all its facts, device by device: the noun that rules judge and renderers show."""

from __future__ import annotations

from dataclasses import dataclass

from vramprof.analyses.allocations import Allocations, find_allocations
from vramprof.analyses.attribution import Attribution, attribute
from vramprof.analyses.elsewhere import Elsewhere, find_elsewhere
from vramprof.analyses.fragmentation import Fragmentation, find_fragmentation
from vramprof.analyses.guesses import Guess, find_guesses
from vramprof.analyses.idle import Idle, find_idle
from vramprof.analyses.leak_causes import LeakCause, find_leak_causes
from vramprof.analyses.leaks import Leaks, find_leaks
from vramprof.analyses.oom_state import OomState, find_oom
from vramprof.analyses.ownership import OutsideBytes, Pool, find_outside, find_pools
from vramprof.analyses.peak import Peak, find_peak
from vramprof.analyses.precision import Saved, find_saved
from vramprof.analyses.replay_tape import Flushes, find_flushes
from vramprof.analyses.steps import Step, find_steps
from vramprof.analyses.timeline import Timeline, make_timeline
from vramprof.recording import Recording


@dataclass(frozen=True, eq=False)
class DeviceFacts:
    """What is known of one device. `outside_torch_bytes` is NVML's process less reserved, None if NVML was not read.
    `counted_peak_bytes` is the highest that torch's own counter saw since the process began or the program reset it:
    above the peak's where that was not traced."""

    index: int
    name: str
    total_bytes: int
    outside_torch_bytes: int | None
    outside: tuple[OutsideBytes, ...]
    pools: tuple[Pool, ...]
    counted_peak_bytes: int | None
    allocations: Allocations
    attribution: Attribution
    timeline: Timeline
    peak: Peak
    idle: Idle
    saved: Saved
    steps: tuple[Step, ...]
    guesses: tuple[Guess, ...]
    leaks: Leaks
    leak_causes: tuple[LeakCause, ...]
    elsewhere: Elsewhere
    fragmentation: Fragmentation
    flushes: Flushes
    oom: OomState | None


@dataclass(frozen=True, eq=False)
class Facts:
    """A recording and the facts of each of its devices."""

    recording: Recording
    devices: tuple[DeviceFacts, ...]


def gather_facts(recording: Recording) -> Facts:
    """Run every analysis once."""
    return Facts(recording, tuple(_device_facts(recording, index) for index in recording.device_indices))


def _device_facts(recording: Recording, index: int) -> DeviceFacts:
    allocations = find_allocations(recording, index)
    attribution = attribute(recording, allocations)
    timeline = make_timeline(recording, allocations)
    device = recording.devices[recording.devices["device"] == index]
    total_bytes = 0 if device.empty else int(device["total_bytes"].iloc[-1])
    outside_bytes = _outside_torch(recording, index)
    leaks = find_leaks(recording, allocations, attribution)
    peak = find_peak(recording, allocations, attribution, timeline)
    fragmentation = find_fragmentation(recording, allocations, timeline)
    return DeviceFacts(
        index=index,
        name="" if device.empty else str(device["name"].iloc[-1]),
        total_bytes=total_bytes,
        outside_torch_bytes=outside_bytes,
        outside=find_outside(recording, index),
        pools=find_pools(recording, allocations, peak.index - 1),
        counted_peak_bytes=None if device.empty else int(device["peak_allocated_bytes"].iloc[-1]),
        allocations=allocations,
        attribution=attribution,
        timeline=timeline,
        peak=peak,
        idle=find_idle(recording, allocations, attribution, peak.index - 1),
        saved=find_saved(recording, allocations, attribution, peak.index - 1),
        steps=find_steps(recording, timeline),
        guesses=find_guesses(recording, index),
        leaks=leaks,
        leak_causes=find_leak_causes(recording, index, leaks),
        elsewhere=find_elsewhere(
            recording, allocations, timeline, total_bytes=total_bytes, outside_bytes=outside_bytes
        ),
        fragmentation=fragmentation,
        flushes=find_flushes(recording, allocations),
        oom=find_oom(recording, allocations, fragmentation),
    )


def _outside_torch(recording: Recording, index: int) -> int | None:
    """The process in NVML less what torch reserved, from the last sample that has both."""
    samples = recording.samples[recording.samples["device"] == index]
    both = samples[(samples["process_bytes"] >= 0) & (samples["reserved_bytes"] >= 0)]
    if both.empty:
        return None
    return int(both["process_bytes"].iloc[-1]) - int(both["reserved_bytes"].iloc[-1])
