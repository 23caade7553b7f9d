"""Keep freed memory for the next step instead of handing it back to the kernel after every one."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc's names are M_TRIM_THRESHOLD and M_MMAP_MAX; see mallopt(3)


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to reuse freed blocks, whatever their size; elsewhere nothing happens.

    On a CPU a forward pass allocates the same large blocks again and again. By default glibc maps and unmaps each of
    them, and the kernel clears every page anew: more than half of the time of a small convolutional network. The
    process keeps its peak memory in return.

    Returns:
        Whether the allocator took it.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has no mallopt
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
