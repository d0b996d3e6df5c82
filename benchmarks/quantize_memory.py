"""Measures what quantization of large models takes: time, memory by `/usr/bin/time -v`, and the size on disk.

    python benchmarks/quantize_memory.py build/large                  0.5, 2 and 8 billion weights, data-free
    python benchmarks/quantize_memory.py build/large narrow deep --calibration-tokens 2048
    python benchmarks/quantize_memory.py build/large 2b-block --calibration-tokens 32768 --split

--record puts the figures of a data-free run into docs/measurements/quantize.json, in the place of that size's
last ones, and draws docs/pictures/quantize-*.svg again.

Models are llamas in bfloat16 with Gaussian weights; all blocks of a model hold the same ones, so that a
model of any size is written from the memory of one block. Files are removed after each run; the largest takes
16 GB. The vocabulary is the 256 bytes and words nobody can type: a text of N ASCII characters is N tokens.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from growth import RECORD, draw
from random_models import SHAPES, Shape, numbered_tokenizer
from side_by_side.machine import BUSY_SHARE, describe_machine, noise

from tritium.formats.safetensors import write_safetensors
from tritium.model.architecture import Architecture, architecture_for
from tritium.model.config import parse_config
from tritium.quantize import QuantizationConfig, inputs, layer, quantize_model
from tritium.quantize.stream import TextStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

TEXT = Path(__file__).resolve().parent.parent / "examples" / "text" / "calibration.txt"
LARGE = {
    "0.5b": Shape(layers=20, hidden=1280, inner=3456, heads=20, kv_heads=5, vocabulary=128256),
    "2b": SHAPES["2b4t"],
    # For compensation: one block of 2B4T's shape and of Llama 3 8B's; the same blocks, few and many.
    "2b-block": Shape(layers=1, hidden=2560, inner=6912, heads=20, kv_heads=5, vocabulary=1024),
    "8b-block": Shape(layers=1, hidden=4096, inner=14336, heads=32, kv_heads=8, vocabulary=1024),
    "narrow": Shape(layers=4, hidden=512, inner=1376, heads=8, kv_heads=4, vocabulary=128256),
    "deep": Shape(layers=40, hidden=512, inner=1376, heads=8, kv_heads=4, vocabulary=128256),
    "8b": Shape(layers=32, hidden=4096, inner=14336, heads=32, kv_heads=8, vocabulary=128256),
}
GROUP_SIZE = 128
DATA_FREE = ["0.5b", "2b", "8b"]
RUN = """
import json, sys, time
from pathlib import Path
from tritium.quantize import QuantizationConfig, quantize_model
source, config, out = sys.argv[1:]
model = quantize_model(source, QuantizationConfig.from_dict(json.loads(config)), out=out)
print(json.dumps(dict(model.metrics)))
"""
FIGURES = {
    "elapsed": r"Elapsed \(wall clock\) time .*: (?:(\d+):)?(\d+):([\d.]+)",
    "user": r"User time \(seconds\): ([\d.]+)",
    "system": r"System time \(seconds\): ([\d.]+)",
    "resident": r"Maximum resident set size \(kbytes\): (\d+)",
}


@dataclass(frozen=True)
class Cost:
    """What one run took, in seconds and bytes."""

    elapsed: float
    processor: float
    resident: int
    metrics: dict[str, Any]
    on_disk: int


def write_model(directory: Path, shape: Shape, *, seed: int = 0) -> Architecture:
    """Write a dense llama of a shape; the same shape and seed give the same bytes."""
    draw = np.random.default_rng(seed)
    architecture = architecture_for(parse_config(shape.config))
    drawn: dict[tuple[str, tuple[int, ...]], NDArray[np.uint16]] = {}
    tensors = {}
    shapes = dict(architecture.tensors) | {
        f"{name}.weight": (linear.out_features, linear.in_features)
        for name, linear in architecture.linears.items()
    }
    for name, sizes in shapes.items():
        kind = re.sub(r"\d+", "", name), sizes
        if kind not in drawn:
            drawn[kind] = _bfloat16(draw, sizes)
        tensors[name] = drawn[kind]
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(shape.config))
    (directory / "tokenizer.json").write_bytes(numbered_tokenizer(shape.vocabulary))
    write_safetensors(directory / "model.safetensors", tensors)
    return architecture


def _bfloat16(draw: np.random.Generator, sizes: tuple[int, ...]) -> NDArray[np.uint16]:
    if len(sizes) == 1:
        return np.full(sizes, 0x3F80, np.uint16)  # norms: ones
    bits = np.empty(sizes, np.uint16)
    for row in bits:  # as float32 a table of 8 billion weights' embeddings would take 2 GB
        values = draw.standard_normal(sizes[1], np.float32) / np.float32(np.sqrt(sizes[1]))
        row[:] = values.view(np.uint32) >> 16
    return bits


def measure(source: Path, out: Path, config: dict[str, Any]) -> Cost:
    """Quantize in a process of its own, under `/usr/bin/time -v`."""
    command = ["/usr/bin/time", "-v", sys.executable, "-c", RUN, str(source), json.dumps(config), str(out)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    found = {name: re.search(pattern, run.stderr) for name, pattern in FIGURES.items()}
    groups = {name: match.groups() for name, match in found.items() if match is not None}
    hours, minutes, seconds = groups["elapsed"]
    return Cost(
        elapsed=3600 * int(hours or 0) + 60 * int(minutes) + float(seconds),
        processor=float(groups["user"][0]) + float(groups["system"][0]),
        resident=1024 * int(groups["resident"][0]),
        metrics=json.loads(run.stdout),
        on_disk=sum(path.stat().st_size for path in out.iterdir()),
    )


def sizes_of(architecture: Architecture) -> tuple[int, int]:
    """Return the weights of a model and of its largest linear layer."""
    linears = [shape.out_features * shape.in_features for shape in architecture.linears.values()]
    return sum(linears) + sum(int(np.prod(sizes)) for sizes in architecture.tensors.values()), max(linears)


def record(name: str, architecture: Architecture, cost: Cost) -> None:
    """Keep the figures of one size beside the page, with where they come from."""
    content = json.loads(RECORD.read_text(encoding="utf-8"))
    total, largest = sizes_of(architecture)
    machine = describe_machine()
    content["runs"][name] = {
        "weights": total,
        "seconds": round(cost.elapsed, 1),
        "processor_seconds": round(cost.processor, 1),
        "largest_layer_mib": round(4 * largest / 2**20),
        "peak_mib": round(cost.resident / 2**20),
        "bits_per_weight": round(cost.metrics["bits_per_weight"], 3),
        "megabytes": round(cost.on_disk / 1e6),
        "machine": f"{machine['cores']} cores of {machine['processor']}",
        "is_busy": noise()["busy_share"] > BUSY_SHARE,
        "commit": machine["commit"],
        "date": machine["time"][:10],
    }
    RECORD.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draw()


def show(name: str, architecture: Architecture, cost: Cost) -> None:
    """Print one row of the table."""
    total, largest = sizes_of(architecture)
    print(
        f"| {name} | {total / 1e9:.3f} | {cost.elapsed:.1f} | {cost.processor:.1f} "
        f"| {total / cost.elapsed / 1e6:.0f} | {cost.elapsed / total * 1e9:.1f} "
        f"| {4 * largest / 2**20:.0f} | {cost.resident / 2**20:.0f} | {cost.metrics['bits_per_weight']:.3f} "
        f"| {cost.on_disk / 1e6:.0f} | {8 * cost.on_disk / total:.3f} |",
        flush=True,
    )


def show_split(source: Path, out: Path, config: dict[str, Any]) -> None:
    """Print the processor seconds that each part of a compensated quantization takes, in this process."""
    parts = {
        "forward passes": [(TextStream, "after_block")],
        "H and drift": [(inputs, name) for name in ("add_gram", "add_cross_gram", "multiplied")],
        "descent": [(layer, "quantize_compensated")],
        "output errors": [(layer, name) for name in ("output_error", "output_errors")],
    }
    seconds = dict.fromkeys(parts, 0.0)
    for part, places in parts.items():
        for owner, name in places:
            setattr(owner, name, _timed(getattr(owner, name), seconds, part))
    started = time.process_time()
    quantize_model(source, QuantizationConfig.from_dict(config), out=out)
    total = time.process_time() - started
    for part, spent in (seconds | {"the rest": total - sum(seconds.values())}).items():
        print(f"| {part} | {spent:.1f} | {spent / total:.0%} |")


def _timed(work: Callable[..., Any], seconds: dict[str, float], part: str) -> Callable[..., Any]:
    """Count what a function takes, without what is counted for others meanwhile."""

    def timed(*given: Any, **named: Any) -> Any:
        started, before = time.process_time(), sum(seconds.values())
        try:
            return work(*given, **named)
        finally:
            seconds[part] += time.process_time() - started - (sum(seconds.values()) - before)

    return timed


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where models are written and removed again")
    parser.add_argument("shapes", nargs="*", choices=[*LARGE, []])
    parser.add_argument("--calibration-tokens", type=int, help="compensate, on so many tokens")
    parser.add_argument("--group-size", type=int, default=GROUP_SIZE, help="0: a scale per row")
    parser.add_argument("--split", action="store_true", help="processor seconds by part instead")
    parser.add_argument("--record", action="store_true", help="keep the figures and draw the picture")
    options = parser.parse_args()
    if options.record and (options.split or options.calibration_tokens or options.group_size != GROUP_SIZE):
        parser.error("--record keeps data-free runs in groups of 128 only")
    config: dict[str, Any] = {
        "embedding_bits": 6,
        "max_planes": 1,
        "group_size": options.group_size,
    }
    if options.calibration_tokens:
        config |= {
            "calibration_text": {"path": str(TEXT)},
            "calibration_tokens": options.calibration_tokens,
        }
    print(
        "| model | billion weights | s | processor s | million weights/s | s per billion "
        "| largest layer as fp32, MiB | peak resident, MiB | bits a linear weight "
        "| MB on disk | bits a weight of all |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for name in options.shapes or DATA_FREE:
        folder = options.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        try:
            architecture = write_model(folder / "source", LARGE[name])
            if options.split:
                show_split(folder / "source", folder / "out", config)
                continue
            cost = measure(folder / "source", folder / "out", config)
            show(name, architecture, cost)
            if options.record:
                record(name, architecture, cost)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
