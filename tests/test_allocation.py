"""Memory that is freed stays at hand."""

import subprocess
import sys

import pytest

CODE = """
import ctypes
import torch
from deformlearn.allocation import keep_freed_memory

class Counts(ctypes.Structure):  # glibc's mallinfo2
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd a b c d e".split()]

if not hasattr(ctypes.CDLL(None), "mallinfo2"):
    raise SystemExit("absent")
counts = ctypes.CDLL(None).mallinfo2
counts.restype = Counts

def pages_of_their_own():
    before = counts().hblks
    several = [torch.ones(2**size) for size in (20, 22, 24)]
    return counts().hblks - before

print(pages_of_their_own())
keep_freed_memory()
print(pages_of_their_own())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone gives memory back so eagerly")
def test_tensors_no_longer_get_pages_that_go_back_when_they_are_freed():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    if "absent" in done.stderr:
        pytest.skip("this C library cannot say where its memory is (mallinfo2)")
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert before == 3
    assert after == 0
