"""Training keeps the memory that it frees."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
from transnext.cli.process import keep_freed_memory

keep_freed_memory()
import torch
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.zeros(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(4):
    faults()  # until there are free pieces that are large enough with what aligns them
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have other options")
def test_a_tensor_takes_the_pages_of_the_one_before() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100
