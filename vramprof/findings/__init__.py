"""Opinions: what is wrong, what it costs in bytes, and what to do, from the facts of a recording."""

import vramprof.findings.fragmentation
import vramprof.findings.leaks
import vramprof.findings.peak  # noqa: F401 -- so do these
from vramprof.findings.facts import DeviceFacts, Facts, gather_facts
from vramprof.findings.finding import Evidence, Finding, Fix
from vramprof.findings.out_of_memory import OUT_OF_MEMORY_CODES
from vramprof.findings.rules import find_all

__all__ = ["OUT_OF_MEMORY_CODES", "DeviceFacts", "Evidence", "Facts", "Finding", "Fix", "find_all", "gather_facts"]
