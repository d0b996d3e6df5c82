import os
import subprocess
import sys

import pytest

from tritium.errors import InsufficientMemoryError, ValidationError
from tritium.kernels import _native, device


def run_python(code, **environment):
    command = [sys.executable, "-W", "ignore", "-c", code]
    merged = os.environ | environment
    return subprocess.run(command, env=merged, capture_output=True, text=True, timeout=60, check=False)


def test_the_best_device_is_this_processor_with_all_its_threads(monkeypatch):
    monkeypatch.delenv("TRITIUM_ISA", raising=False)
    chosen = device.select_optimal_device(1000)
    assert chosen.kind == "cpu"
    assert chosen.isa == _native.available_isas()[0]
    assert chosen.threads >= 1
    assert device.select_optimal_device(1000, threads=3).threads == 3


def test_a_model_larger_than_the_memory_is_refused():
    with pytest.raises(InsufficientMemoryError) as caught:
        device.select_optimal_device(1 << 60)
    assert caught.value.details["required"] == 1 << 60


@pytest.mark.parametrize(("size", "threads"), [(-1, None), (1, 0), (1, -2)])
def test_nonsense_is_refused(size, threads):
    with pytest.raises(ValidationError):
        device.select_optimal_device(size, threads=threads)


@pytest.mark.parametrize("isa", _native.available_isas())
def test_the_environment_forces_an_instruction_set(isa):
    code = "from tritium.kernels import cpu, _native; print(_native.isa())"
    assert run_python(code, TRITIUM_ISA=isa).stdout.strip() == isa


def test_an_unknown_or_missing_instruction_set_is_refused_with_the_choices(monkeypatch):
    monkeypatch.setenv("TRITIUM_ISA", "sse9")
    with pytest.raises(ValidationError, match=r"no such instruction set.*scalar"):
        device.detect_isa()
    monkeypatch.setenv("TRITIUM_ISA", "avx2")
    monkeypatch.setattr(_native, "available_isas", lambda: ["scalar"])
    with pytest.raises(ValidationError, match="processor lacks it"):
        device.detect_isa()
    result = run_python("import tritium.kernels.cpu", TRITIUM_ISA="sse9")
    assert "ValidationError" in result.stderr


def test_the_native_module_refuses_to_switch_to_what_it_has_not():
    before = _native.isa()
    assert not _native.set_isa("sse9")
    assert _native.isa() == before


THREADS_AND_FORK = """
import os, numpy as np
from concurrent.futures import ThreadPoolExecutor
from tritium.kernels import cpu
x = np.random.default_rng(0).standard_normal((8, 700)).astype(np.float32)
expected = cpu.dense_matmul(x, x)
work = lambda _: np.array_equal(cpu.dense_matmul(np.tile(x, (20, 1)), x, threads=3)[:8], expected)
with ThreadPoolExecutor(4) as pool:
    assert all(pool.map(work, range(200)))
child = os.fork()
if child == 0:
    os._exit(0 if all(work(0) for _ in range(20)) else 1)
assert os.waitpid(child, 0)[1] == 0
assert work(0)
print("same")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_the_thread_pool_serves_many_callers_and_survives_a_fork():
    result = run_python(THREADS_AND_FORK)
    assert result.stdout.strip() == "same", result.stderr
