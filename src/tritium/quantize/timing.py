"""How long a quantization and its validation took, and on which machine: a file beside the model's directory.

The directory is a function of source, configuration and texts; seconds are not, so they lie in
`NAME.run.json` beside the directory NAME. The file carries a digest of itself and that of the manifest it
belongs to. It holds what was counted and timed; speeds are computed from it.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tritium.formats.native import MANIFEST
from tritium.formats.refusal import quoted, refusal
from tritium.formats.storage import write_file_atomically
from tritium.formats.strict_json import LARGEST_JSON, parse_json_object
from tritium.formats.weight_file import read_small_file
from tritium.kernels.device import processor_name, select_optimal_device
from tritium.kernels.measure import Candidate, Product

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TIMING_VERSION = 1
SUFFIX = ".run.json"


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What one model ran, and the wall time of its forward passes.

    Attributes:
        prefill_tokens: tokens of the text, read in windows (generators) or batches of passages (encoders).
        prefill_seconds: wall time of that.
        decode_tokens: tokens of the samples, generated one by one; 0 for encoders.
        decode_seconds: wall time of that.
    """

    prefill_tokens: int
    prefill_seconds: float
    decode_tokens: int = 0
    decode_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The run behind a model directory.

    Attributes:
        library: version of this library.
        system: operating system and interpreter's platform.
        processor: as the system names it.
        isa: instruction set of the kernels.
        threads: of the kernels while the models ran.
        product: the ternary product that both were chosen by; None where nothing was measured.
        candidates: how fast it ran on each instruction set and number of threads, the chosen one first.
        layer_seconds: wall time of the layers' quantization; None where it was resumed or not measured.
        speeds: by side ("source", "quantized", "four_bit"); empty where there was no text.
    """

    library: str
    system: str
    processor: str
    isa: str
    threads: int
    product: Product | None = None
    candidates: Sequence[Candidate] = ()
    layer_seconds: float | None = None
    speeds: Mapping[str, Speed] = field(default_factory=dict)

    @classmethod
    def here(
        cls,
        *,
        threads: int | None,
        product: Product,
        layer_seconds: float | None,
        speeds: Mapping[str, Speed],
    ) -> Self:
        """Describe a run on this machine, of a model whose device is chosen by this product."""
        device = select_optimal_device(0, threads=threads, product=product)
        return cls(
            library=_library_version(),
            system=platform.platform(),
            processor=processor_name(),
            isa=device.isa,
            threads=device.threads,
            product=device.product,
            candidates=device.candidates,
            layer_seconds=layer_seconds,
            speeds=speeds,
        )


def timing_file(directory: str | Path) -> Path:
    """Return where the timing of a model directory lies: beside it."""
    target = Path(directory).absolute()
    return target.with_name(target.name + SUFFIX)


def write_timing(timing: Timing, directory: str | Path) -> None:
    """Write the timing of a model directory beside it, whole or not at all.

    Raises:
        ResourceError: the disk is full.
    """
    content = {"version": TIMING_VERSION, "manifest_sha256": _manifest_sha256(directory), **asdict(timing)}
    write_file_atomically(timing_file(directory), [_sealed(content)])


def read_timing(directory: str | Path) -> Timing | None:
    """Return the timing of a model directory; None if there is none beside it, or that of another model.

    Raises:
        ValidationError: the file was altered.
    """
    path = timing_file(directory)
    if not path.is_file():
        return None
    data = read_small_file(path, limit=LARGEST_JSON)
    content = parse_json_object(data, file=path)
    if content.pop("version", None) != TIMING_VERSION:
        raise refusal(f"only version {TIMING_VERSION} of run timings is known here", file=path)
    content.pop("sha256", None)
    if _sealed({"version": TIMING_VERSION, **content}) != data:
        raise refusal("the timings were altered: their digest does not match", file=path)
    if content.pop("manifest_sha256", None) != _manifest_sha256(directory):
        return None  # a model of this name lay here before
    try:
        speeds = {side: Speed(**speed) for side, speed in content.pop("speeds").items()}
        product = content.pop("product", None)
        candidates = tuple(Candidate(**each) for each in content.pop("candidates", ()))
        product = None if product is None else Product(**product)
        return Timing(**content, speeds=speeds, product=product, candidates=candidates)
    except (AttributeError, KeyError, TypeError) as error:
        raise refusal(f"these are no timings: {quoted(error)}", file=path) from error


def _library_version() -> str:
    try:
        return version("tritium")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"


def _manifest_sha256(directory: str | Path) -> str:
    return hashlib.sha256(read_small_file(Path(directory) / MANIFEST, limit=LARGEST_JSON)).hexdigest()


def _sealed(content: Mapping[str, Any]) -> bytes:
    digest = hashlib.sha256(_encoded(content)).hexdigest()
    return _encoded({**content, "sha256": digest})


def _encoded(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"
