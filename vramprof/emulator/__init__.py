"""Turns this process into one that has a CUDA device which accounts for memory and computes nothing."""

from __future__ import annotations

from vramprof.emulator.estimates import count_estimates
from vramprof.emulator.guesses import listen_to_guesses
from vramprof.emulator.loader import DeviceSpec, active, check, start

__all__ = ["DeviceSpec", "active", "check", "count_estimates", "listen_to_guesses", "start"]

for _noun in (DeviceSpec, active, check, count_estimates, listen_to_guesses, start):
    _noun.__module__ = __name__
