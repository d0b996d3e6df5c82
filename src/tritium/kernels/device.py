"""Which processor does the work, and with how much of it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tritium.errors import InsufficientMemoryError, ValidationError
from tritium.kernels import _native
from tritium.kernels.measure import measure_candidates, measure_product

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tritium.kernels.measure import Candidate, Product

ENVIRONMENT = "TRITIUM_ISA"
KNOWN_ISAS = ("avx512_amx", "avx512_vbmi", "avx512_vnni", "avx2", "neon_i8mm", "neon_dotprod", "scalar")


@dataclass(frozen=True, kw_only=True)
class Device:
    """A processor that can run a model.

    Attributes:
        kind: what it is.
        isa: the instruction set its kernels use: avx512_amx, avx512_vbmi, avx512_vnni, avx2, neon_i8mm,
            neon_dotprod or scalar.
        threads: how many threads kernels may use.
        memory_bytes: memory that can be had now; None where the system does not say.
        candidates: what was measured to choose, the chosen one first; empty where nothing was.
        product: what they were measured on; None likewise.
    """

    kind: Literal["cpu"]
    isa: str
    threads: int
    memory_bytes: int | None
    candidates: Sequence[Candidate] = ()
    product: Product | None = None

    def use(self) -> None:
        """Let this process use its instruction set: weights are laid out for it from now on."""
        _native.set_isa(self.isa)


def detect_isa() -> str:
    """The widest instruction set that this processor can run, or the one that TRITIUM_ISA forces.

    Raises:
        ValidationError: TRITIUM_ISA names an unknown instruction set, or one that this processor lacks.
    """
    available = _native.available_isas()
    forced = os.environ.get(ENVIRONMENT, "")
    if not forced:
        return available[0]
    if forced not in available:
        known = "this processor lacks it" if forced in KNOWN_ISAS else "there is no such instruction set"
        choices = ", ".join(available)
        message = f"{ENVIRONMENT}={forced}: {known}. Unset it, or use one of: {choices}."
        raise ValidationError(message, isa=forced)
    return forced


@cache
def use_detected_isa() -> None:
    """Let this process use what `detect_isa` says; whoever asks after the first changes nothing any more.

    Raises:
        ValidationError: see `detect_isa`.
    """
    _native.set_isa(detect_isa())  # TRITIUM_ISA may ask for a narrower one than the module's own choice


def select_optimal_device(
    model_size: int,
    *,
    threads: int | None = None,
    product: Product | None = None,
    measure: Callable[[Product, str, int], float] = measure_product,
) -> Device:
    """Chooses the device for a model of `model_size` bytes.

    With a product to measure it is the fastest of the instruction sets that this processor has, and of its
    threads, halved down to one; without one the widest set and all threads. No result depends on the choice.

    Args:
        model_size: bytes that the model's weights take in memory.
        threads: threads to use; by default all that this process may run on are tried.
        product: a ternary product of the model's own shape.
        measure: returns the GOPS of a product on an instruction set and so many threads.

    Raises:
        ValidationError: a negative size, or fewer than one thread; or TRITIUM_ISA asks for what is not there.
        InsufficientMemoryError: the machine has less memory available than the model needs.
    """
    if model_size < 0:
        raise ValidationError(f"A model cannot have {model_size} bytes.")
    if threads is not None and threads < 1:
        raise ValidationError(f"A model needs at least 1 thread, not {threads}.")
    memory = _available_memory()
    if memory is not None and model_size > memory:
        raise InsufficientMemoryError(
            f"The model needs {model_size:,} bytes of memory and {memory:,} are available: "
            "choose a smaller model or free memory.",
            required=model_size,
            available=memory,
        )
    isa = detect_isa()
    isas = [isa] if os.environ.get(ENVIRONMENT) else _native.available_isas()
    counts = [threads] if threads else _halved(_usable_processors())
    if product is None or len(isas) == len(counts) == 1:
        return Device(kind="cpu", isa=isa, threads=counts[0], memory_bytes=memory)
    found = measure_candidates(product, isas=isas, threads=counts, measure=measure)
    return Device(
        kind="cpu",
        isa=found[0].isa,
        threads=found[0].threads,
        memory_bytes=memory,
        candidates=found,
        product=product,
    )


def processor_name() -> str:
    """Return the processor as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _halved(count: int) -> list[int]:
    return [count, *(_halved(count // 2) if count > 1 else [])]


def _usable_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _available_memory() -> int | None:
    """Bytes that a new process can use without swapping, and what its control group allows."""
    limits = [limit for limit in (_system_memory(), _group_memory()) if limit is not None]
    return min(limits, default=None)


def _system_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _group_memory() -> int | None:
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = (group / "memory.current").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return None if limit == "max" else max(0, int(limit) - int(used))
