"""Turns NVML's samples into what a device held beside torch: other processes, and this process outside torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vramprof.recording import Recording


@dataclass(frozen=True)
class DeviceUse:
    """Bytes, None where NVML was not read. `others_bytes`: other processes, the most that two readings in a row saw;
    `outside_bytes`: this process less what torch reserved; `process_bytes`: this process. The last two at the end."""

    others_bytes: int | None
    outside_bytes: int | None
    process_bytes: int | None


def find_device_use(recording: Recording, device: int) -> DeviceUse:
    """What NVML saw of one device."""
    samples = recording.samples[recording.samples["device"] == device].sort_values("time_ns", kind="stable")
    both = samples[(samples["process_bytes"] >= 0) & (samples["reserved_bytes"] >= 0)]
    if both.empty:
        return DeviceUse(None, None, None)
    process = int(both["process_bytes"].iloc[-1])
    outside = process - int(both["reserved_bytes"].iloc[-1])
    others = (both["device_used_bytes"] - both["process_bytes"])[both["device_used_bytes"] >= 0]
    return DeviceUse(_lasting(others.to_numpy(dtype=np.int64)), outside, process)


def _lasting(values: npt.NDArray[np.int64]) -> int | None:
    """The two figures of a sample are read one after the other: what only one sample saw may be between the two."""
    if len(values) < 2:
        return max(int(values[0]), 0) if len(values) else None
    return max(int(np.minimum(values[1:], values[:-1]).max()), 0)
