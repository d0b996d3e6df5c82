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


PARTS = ("attention", "cpu", "descent", "gram", "quantization", "sampling")


@pytest.mark.parametrize("first", PARTS)
def test_every_part_begins_with_what_the_environment_forces_and_none_takes_back_what_was_chosen_since(first):
    widest = _native.available_isas()[0]
    code = f"from tritium.kernels import {first}, _native; print(_native.isa()); "
    code += (
        f"_native.set_isa({widest!r}); from tritium.kernels import {', '.join(PARTS)}; print(_native.isa())"
    )
    assert run_python(code, TRITIUM_ISA="scalar").stdout.split() == ["scalar", widest]


NO_ROOM_FOR_MATRIX_REGISTERS = """
import ctypes
class Stack(ctypes.Structure):
    _fields_ = [("memory", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]
room = ctypes.create_string_buffer(4096)
alternate = Stack(ctypes.addressof(room), 0, len(room))
assert ctypes.CDLL(None).sigaltstack(ctypes.byref(alternate), None) == 0
import numpy as np
from tritium.kernels import cpu, reference, _native
x = np.ones((1, 40), np.float32)
assert np.array_equal(cpu.quantize_activations(x)[0], reference.quantize_activations(x)[0])
print(_native.isa(), "avx512_amx" in _native.available_isas())
"""


# Linux denies the registers to a process whose signal stacks could not hold them.
@pytest.mark.skipif("avx512_amx" not in _native.available_isas(), reason="this processor has no AMX")
def test_a_process_that_may_not_use_matrix_registers_does_without():
    result = run_python(NO_ROOM_FOR_MATRIX_REGISTERS, TRITIUM_ISA="")
    assert result.stdout.split() == ["avx512_vbmi", "False"], result.stderr


THREADS_BEFORE_THE_PERMISSION = """
import threading
go, found = threading.Event(), []
def work():
    go.wait()
    from tritium.kernels import cpu
    found.append(cpu.ternary_matmul(cpu.prepare(weight), q, scale, threads=1))
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
import numpy as np
from tritium.kernels import cpu, reference
from tritium.kernels.weight import TernaryWeight
trits = np.random.default_rng(0).integers(-1, 2, (64, 300)).astype(np.int8)
planes = reference.to_compute_layout(trits)[None]
scales = np.ones((1, 1), np.float32)
weight = TernaryWeight(planes=planes, scales=scales, group_size=300, in_features=300, out_features=64)
q, scale = cpu.quantize_activations(np.random.default_rng(1).standard_normal((40, 300)).astype(np.float32))
go.set()
for thread in threads:
    thread.join()
expected = reference.ternary_matmul(weight, q, scale)
print(len(found), all(np.array_equal(one, expected) for one in found))
"""


def test_threads_older_than_the_choice_of_an_instruction_set_use_it():
    result = run_python(THREADS_BEFORE_THE_PERMISSION)
    assert result.stdout.split() == ["4", "True"], result.stderr


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
