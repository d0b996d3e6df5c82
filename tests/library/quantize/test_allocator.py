"""Memory of arrays that were freed does not stay with the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

ARRAYS_BETWEEN_OTHERS = """
import sys
import numpy as np
from tritium.quantize.allocator import return_large_arrays


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


if sys.argv[1] == "returned":
    return_large_arrays()
np.ones(30 << 20, np.uint8)  # freed at once: glibc keeps what is smaller from now on
before = resident()
arrays = [np.ones(9 << 20, np.uint8) for _ in range(6)]
del arrays[:-1]
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
@pytest.mark.parametrize("how", ["returned", "kept"])
def test_arrays_go_back_to_the_system_whatever_lies_behind_them(how):
    command = [sys.executable, "-c", ARRAYS_BETWEEN_OTHERS, how]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (grown < 12 << 20) == (how == "returned")
