"""Tells how much memory of the host this process may still take, by the kernel's and the container's own figures."""

from __future__ import annotations

from pathlib import Path

_CGROUP_V2 = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current")
_CGROUP_V1 = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes")


def available_bytes() -> int | None:
    """The least of what the machine and a container's limit leave; None where neither is told."""
    found = [size for size in (_of_machine(), _of_group(*_CGROUP_V2), _of_group(*_CGROUP_V1)) if size is not None]
    return min(found, default=None)


def _of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)


def _of_group(limit: str, usage: str) -> int | None:
    try:
        return max(int(Path(limit).read_text()) - int(Path(usage).read_text()), 0)
    except (OSError, ValueError):  # no such group, or "max"
        return None
