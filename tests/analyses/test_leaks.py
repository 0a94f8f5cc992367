"""What grows, from allocations made by hand: one row per event, so that every verdict can be followed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from snapshots import BASE
from vramprof.analyses.leaks import FILLS, LARGER, SAWTOOTH, Leaks
from vramprof.findings import gather_facts
from vramprof.recording import Frame, Recorder
from vramprof.recording.schema import Action

KEPT = Frame("/home/me/train.py", 12, "keep")
WORK = Frame("/home/me/train.py", 7, "work")


class Card:
    """Allocates at ever new addresses, and writes what torch's history would hold."""

    def __init__(self, *, steps: bool = True) -> None:
        self.recorder = Recorder(origin="live", emulated=False)
        self._time, self._address, self._step, self._began = 1000, BASE, 0, 1000
        self._sizes: dict[int, int] = {}
        self._steps = steps

    def alloc(self, size: int, frame: Frame = KEPT) -> int:
        self._address += 1 << 24
        self._sizes[self._address] = size
        self._event(Action.ALLOC, self._address, size, frame)
        return self._address

    def free(self, address: int) -> None:
        for action in (Action.FREE_REQUESTED, Action.FREE_COMPLETED):
            self._event(action, address, self._sizes[address], WORK)
        del self._sizes[address]

    def _event(self, action: Action, address: int, size: int, frame: Frame) -> None:
        self._time += 10
        stack = self.recorder.stacks.add([frame])
        self.recorder.add("events", 0, int(action), address, size, 0, self._time, stack, -1)

    def step(self) -> None:
        self._time += 10
        if self._steps:
            self.recorder.add("spans", "step", f"step {self._step}", self._began, self._time, 0, self._step, -1, -1)
        self._began, self._step = self._time, self._step + 1

    def leaks(self) -> Leaks:
        for address, size in self._sizes.items():
            self.recorder.add(
                "blocks", 0, address, 1 << 24, "large", "0,0", False, 0, address, size, size, "active_allocated", -1
            )
        return gather_facts(self.recorder.freeze()).devices[0].leaks


def run(step: Callable[[Card, int], None], count: int, **options: Any) -> Leaks:
    card = Card(**options)
    for number in range(count):
        card.free(card.alloc(1 << 20, WORK))
        step(card, number)
        card.step()
    return card.leaks()


def held(leaks: Leaks) -> str:
    """The reason of what `KEPT` allocated."""
    return next((growth.reason for growth in leaks.growths if growth.line == KEPT), "")


@pytest.mark.parametrize("steps", [True, False], ids=["steps", "no steps"])
def test_one_tensor_per_step_is_found_in_twelve(steps: bool) -> None:
    leaks = run(lambda card, _: card.alloc(512) and None, 12, steps=steps)
    (growth,) = leaks.leaking
    assert growth.line == KEPT
    assert growth.trend.slope == 512
    assert growth.trend.low <= 512 <= growth.trend.high
    assert len(growth.addresses) == 12


def test_ten_thousand_steps() -> None:
    chance = random.Random(1)

    def leaky(card: Card, number: int) -> None:
        card.free(card.alloc(chance.randrange(512, 1 << 20), WORK))
        card.alloc(512)

    def clean(card: Card, number: int) -> None:
        held.append(card.alloc(chance.randrange(512, 1 << 20)))
        if len(held) > 3:
            card.free(held.pop(chance.randrange(3)))

    held: list[int] = []
    assert run(leaky, 10_000).bytes_per_step == pytest.approx(512)
    assert run(clean, 10_000).leaking == ()


def test_a_ring_and_a_cache_fill_and_stop() -> None:
    ring: list[int] = []

    def turn(card: Card, number: int) -> None:
        ring.append(card.alloc(4096 + number))
        if len(ring) > 8:
            card.free(ring.pop(0))

    chance, cache = random.Random(3), set()

    def look_up(card: Card, number: int) -> None:
        key = chance.randrange(10)
        if key not in cache:
            cache.add(key)
            card.alloc(4096)

    assert run(turn, 30).leaking == ()
    leaks = run(look_up, 60)
    assert leaks.leaking == ()
    assert held(leaks) == FILLS


def test_memory_that_comes_back_is_no_leak() -> None:
    garbage: list[int] = []

    def collected(card: Card, number: int) -> None:
        garbage.append(card.alloc(1 << 20))
        if number % 9 == 8:
            while garbage:
                card.free(garbage.pop())

    leaks = run(collected, 31)
    assert leaks.leaking == ()
    assert held(leaks) == SAWTOOTH


def test_a_tensor_that_grows_in_place_leaks_unless_a_sequence_is_generated() -> None:
    buffer: list[int] = []

    def concatenate(card: Card, number: int) -> None:
        new = card.alloc(4096, WORK)
        buffer.append(card.alloc(4096 * (number + 1)))
        card.free(new)
        if len(buffer) > 1:
            card.free(buffer.pop(0))

    leaks = run(concatenate, 16)
    assert held(leaks) == LARGER
    assert leaks.bytes_per_step == 4096


def test_a_stack_of_its_own_in_each_step_is_gathered_by_line() -> None:
    def unrolled(card: Card, number: int) -> None:
        stack = card.recorder.stacks.add([KEPT, Frame("/home/me/train.py", 100 + number, "main")])
        card._address += 1 << 24
        card._time += 10
        card.recorder.add("events", 0, int(Action.ALLOC), card._address, 1024, 0, card._time, stack, -1)
        card._sizes[card._address] = 1024

    (growth,) = run(unrolled, 14).leaking
    assert growth.line == KEPT


def test_too_few_steps_say_nothing() -> None:
    assert run(lambda card, _: card.alloc(1 << 20) and None, 5).leaking == ()
