"""What the machine offers to this process."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_USUAL_MEMORY = 8 * 2**30


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def total_memory() -> int:
    """Memory of the machine, or of the container, in bytes; 8 GB where it cannot be asked.

    All of it, not what is free: what is made from it is the same in the next run.
    """
    limits = [_USUAL_MEMORY]
    if hasattr(os, "sysconf"):
        with suppress(ValueError, OSError):
            limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(ValueError, OSError):  # "max" where there is no limit
        limits.append(int(_CGROUP_LIMIT.read_text("utf-8")))
    return min(limits)
