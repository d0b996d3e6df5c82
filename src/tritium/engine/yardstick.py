"""What a machine can do at the most, and what a token asks of it: what step times are held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritium.engine.resources import read_memory
from tritium.kernels import _native

if TYPE_CHECKING:
    from tritium.kernels.device import Device
    from tritium.model.decoder import DecoderModel

_PROBE_SECONDS = 0.05
_PROBE_BYTES = 2**29  # what the probe of the memory reads through, and some more
_OPERATIONS = 2  # a multiplication and an addition


@dataclass(frozen=True, slots=True, kw_only=True)
class Yardstick:
    """A model's work and a machine's speed; None where it could not be measured.

    Attributes:
        weight_bytes: what a step reads of the weights, whatever the number of its rows.
        products_per_token: multiplications (each with its addition) of a token by the weights.
        bytes_per_second: the speed at which this machine reads memory on these threads.
        products_per_second: its peak of multiplications of bytes, likewise.
    """

    weight_bytes: int
    products_per_token: int
    threads: int
    isa: str
    bytes_per_second: float | None
    products_per_second: float | None


def measure_yardstick(model: DecoderModel, device: Device) -> Yardstick:
    """Measure a machine for a model; takes a tenth of a second, and half a gibibyte for that time.

    Where that much memory is not free, its speed is not measured.
    """
    weights = [*model.linears().values(), model.head]
    headroom = read_memory().headroom_bytes(1.0)
    has_room = headroom is None or headroom > 2 * _PROBE_BYTES
    peak = _native.peak_int8(device.threads, _PROBE_SECONDS) / _OPERATIONS
    return Yardstick(
        weight_bytes=sum(int(each.weight.nbytes) for each in weights if hasattr(each, "weight")),
        products_per_token=sum(each.in_features * each.out_features for each in weights),
        threads=device.threads,
        isa=device.isa,
        bytes_per_second=_native.read_bandwidth(device.threads, _PROBE_SECONDS) if has_room else None,
        products_per_second=peak or None,  # an instruction set without a probe
    )
