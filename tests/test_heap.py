"""What the C library keeps and gives back, counted in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNT = """
import ctypes, resource, sys, threading
from segue.process.heap import give_freed_memory_back, keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
MIB = 1 << 20

def faults_of_a_pass():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [ctypes.c_void_p(libc.malloc(ctypes.c_size_t(16 * MIB))) for _ in range(4)]
    for block in blocks:
        libc.memset(block, 1, ctypes.c_size_t(16 * MIB))
    for block in blocks:
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def count():
    counts.extend([faults_of_a_pass() for _ in range(3)])
    keep_freed_memory()
    counts.extend([faults_of_a_pass() for _ in range(3)])
    give_freed_memory_back()
    counts.append(faults_of_a_pass())

counts = []
if sys.argv[1] == "another":
    thread = threading.Thread(target=count)
    thread.start()
    thread.join()
else:
    count()
print(*counts)
"""


@pytest.mark.parametrize("thread", ["main", "another"])
def test_freed_blocks_are_kept_and_can_be_given_back(thread: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COUNT, thread], capture_output=True, text=True, check=True
    )
    *counts, given_back = map(int, done.stdout.split())

    # A pass touches 16,384 pages of 4 KiB. They may be larger.
    assert min(counts[:3]) > 30, done.stdout
    assert max(counts[4:]) < 10, done.stdout
    assert given_back > 30, done.stdout
