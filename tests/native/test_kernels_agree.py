"""Every instruction set gives the same bits: those of this processor, and those of emulated ARM processors.

kernels_agree compares all sets that a processor has with its scalar one and prints digests of the results;
equal digests mean that an ARM processor computes what this one does.

For the emulator the kernels are compiled with -O1, which takes half as long as -O3: without contraction and
without -ffast-math no optimization may change what a kernel computes. That -O3 keeps to that, the objects of
this processor show, which are those of the module.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path

import pytest

from tritium.kernels import _native

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(sysconfig.get_path("scripts"))
CMAKE = str(SCRIPTS / "cmake")
# Where the module that all tests import was compiled: its objects are compared, not others like them.
PYTHON = f"cp{sys.version_info.major}{sys.version_info.minor}"
MODULE = ROOT / "build" / f"{PYTHON}-{PYTHON}-{sysconfig.get_platform().replace('-', '_')}"
ROUNDS = 300
# An emulated processor without i8mm runs the very objects that the one with it has run for all rounds: what
# is new is that it finds the right ones, and no instruction in them that it does not have.
FEW_ROUNDS = 30
ARM = (
    *("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={SCRIPTS / 'ninja'}"),
    *("-DCMAKE_BUILD_TYPE=Release", "-DTRITIUM_MODULE=OFF"),
    "-DCMAKE_SYSTEM_NAME=Linux",
    "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
    "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++",
    "-DCMAKE_EXE_LINKER_FLAGS=-static",
    "-DTRITIUM_OPTIMIZATION=-O1",
)
# Compiling every kernel on a busy machine takes minutes.
pytestmark = pytest.mark.timeout(1200)


def run(*command):
    result = subprocess.run(command, capture_output=True, text=True, timeout=1100, check=False)
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result.stdout


def build(folder):
    """The comparing program, compiled again where sources have changed."""
    run(CMAKE, "--build", str(folder), "--target", "kernels_agree")
    return str(folder / "kernels_agree")


def results_of(output):
    """The instruction sets that ran, and the digest of each kernel."""
    first, *digests = output.splitlines()
    return first.split()[1:], dict(line.split() for line in digests)


@pytest.fixture(scope="module")
def here():
    """What this processor gives for a number of rounds."""
    program = build(MODULE)
    return cache(lambda rounds: results_of(run(program, str(rounds))))


@pytest.fixture(scope="module")
def arm_program():
    missing = [tool for tool in ("aarch64-linux-gnu-g++", "qemu-aarch64") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not found: apt-get install g++-aarch64-linux-gnu qemu-user")
    folder = ROOT / "build" / "native-aarch64"
    run(CMAKE, *ARM, "-S", str(ROOT), "-B", str(folder))
    return build(folder)


def test_the_instruction_sets_of_this_processor_agree(here):
    isas, digests = here(ROUNDS)
    assert isas == _native.available_isas()
    assert {"ternary_tiles", "attend", "descend"} <= digests.keys()


@pytest.mark.toolchain
@pytest.mark.parametrize(
    ("processor", "isas", "rounds"),
    [
        ("max", ["neon_i8mm", "neon_dotprod", "scalar"], ROUNDS),
        ("neoverse-n1", ["neon_dotprod", "scalar"], FEW_ROUNDS),
        ("cortex-a53", ["scalar"], FEW_ROUNDS),
    ],
)
def test_arm_processors_compute_what_this_one_does(here, arm_program, processor, isas, rounds):
    found, digests = results_of(run("qemu-aarch64", "-cpu", processor, arm_program, str(rounds)))
    assert found == isas
    assert digests == here(rounds)[1]
