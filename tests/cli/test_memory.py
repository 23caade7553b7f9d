"""The allocator setting: what it returns where, and that the allocator then maps no large block of its own."""

import subprocess
import sys

import pytest

from mmcl.cli.memory import keep_freed_memory

# How many blocks the allocator has mapped on their own, with one of 64 MiB alive.
MAPPED_BLOCKS = """
import ctypes, sys
from mmcl.cli.memory import keep_freed_memory
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keep")]
library = ctypes.CDLL(None)
if not hasattr(library, "mallinfo2"):
    sys.exit(77)
library.mallinfo2.restype, library.malloc.restype = Info, ctypes.c_void_p
if sys.argv[1] == "keep":
    assert keep_freed_memory()
before = library.mallinfo2().hblks
library.malloc(64 * 2**20)
print(library.mallinfo2().hblks - before)
"""


def test_nothing_happens_off_linux(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is Linux's")
def test_large_blocks_come_from_the_heap():
    runs = {
        how: subprocess.run([sys.executable, "-c", MAPPED_BLOCKS, how], capture_output=True, text=True, check=False)
        for how in ("keep", "plain")
    }
    if runs["plain"].returncode == 77:
        pytest.skip("this C library has no mallinfo2 (glibc 2.33 or newer has)")
    assert {how: int(run.stdout) for how, run in runs.items()} == {"keep": 0, "plain": 1}
