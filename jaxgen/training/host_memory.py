"""What the C library does with memory that is freed: a CPU's step depends on it.

XLA takes the memory for a step's activations anew each time. Left to itself, glibc asks the system
for every large piece and gives it back at once, and the system fills each of its pages with zeros
again: a sixth to a quarter of a transformer's step.
"""

from __future__ import annotations

import ctypes
import platform

# Of <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8

# Larger pieces than that still go back at once: the most that `mallopt` takes.
LARGEST_KEPT = (1 << 31) - 1
_NEVER = -1


def keep_freed_memory() -> bool:
    """Lets this process reuse what it frees, and keep it; says whether the C library can.

    To be called before threads start: those that run by then keep their own ways.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    # One arena, because those of other threads hold no piece of more than 64 MiB.
    settings = ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, LARGEST_KEPT), (_TRIM_THRESHOLD, _NEVER))
    return all([library.mallopt(parameter, value) for parameter, value in settings])
