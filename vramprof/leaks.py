"""Leaks in the flow of a program: who holds what leaked, and blocks of code that must leave nothing behind."""

from __future__ import annotations

from dataclasses import replace

from vramprof.findings.facts import gather_facts
from vramprof.recording import Recorder, Recording
from vramprof.sources.holders import BUDGET_S, record_holders

_EACH = 3
"""Of how many tensors of one group the holder is looked for."""


def suspects(recording: Recording) -> list[tuple[int, int]]:
    """(device, address) of a few tensors of every leak that are still alive: neither the oldest nor the newest."""
    return [
        (device.index, address)
        for device in gather_facts(recording).devices
        for growth in device.leaks.leaking
        for address in _middle(growth.addresses)
    ]


def _middle(addresses: tuple[int, ...]) -> tuple[int, ...]:
    inner = addresses[1:-1] if len(addresses) > 2 else addresses
    stride = max(len(inner) // _EACH, 1)
    return inner[::stride][:_EACH]


def with_holders(recording: Recording, *, budget_s: float = BUDGET_S) -> Recording:
    """The recording and who holds what leaked in it: to be called by the process that recorded it, while it lives."""
    found = suspects(recording)
    if not found:
        return recording
    recorder = Recorder(origin=recording.origin, emulated=recording.emulated)
    record_holders(recorder, found, budget_s=budget_s)
    return replace(recording, holders=recorder.freeze().holders)
