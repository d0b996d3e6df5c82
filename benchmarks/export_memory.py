"""Measures what exports take: time, and memory by `/usr/bin/time -v`, for models of growing size.

    python benchmarks/export_memory.py build/large                  few blocks, many blocks, 0.5 and 2 billion
    python benchmarks/export_memory.py build/large narrow deep      the same blocks, 4 and 40 of them

Models are written as quantize_memory.py does, and quantized to one scale a tensor, which both formats hold;
once with the embedding as it is, once with 6 bits. Files are removed after each run.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from quantize_memory import FIGURES, sizes_of, write_model
from random_models import SHAPES as REAL
from random_models import Shape

from tritium.quantize import QuantizationConfig, quantize_model

RUN = """
import sys
from tritium.model.export_gguf import export_gguf
from tritium.model.export_huggingface import export_huggingface
{"gguf": export_gguf, "huggingface": export_huggingface}[sys.argv[1]](sys.argv[2], sys.argv[3])
"""
# Rows in whole blocks of 256, which GGUF asks for.
SHAPES = {
    "narrow": Shape(layers=4, hidden=512, inner=1536, heads=8, kv_heads=4, vocabulary=128256),
    "deep": Shape(layers=40, hidden=512, inner=1536, heads=8, kv_heads=4, vocabulary=128256),
    "0.5b": Shape(layers=20, hidden=1280, inner=3584, heads=20, kv_heads=5, vocabulary=128256),
    "2b": REAL["2b4t"],
}


def measure(kind: str, source: Path, out: Path) -> tuple[float, float]:
    """Export in a process of its own; return seconds and the peak of resident memory in MiB."""
    command = ["/usr/bin/time", "-v", sys.executable, "-c", RUN, kind, str(source), str(out)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    elapsed = re.search(FIGURES["elapsed"], run.stderr)
    resident = re.search(FIGURES["resident"], run.stderr)
    if elapsed is None or resident is None:
        raise ValueError(run.stderr)
    hours, minutes, seconds = elapsed.groups()
    return 3600 * int(hours or 0) + 60 * int(minutes) + float(seconds), int(resident[1]) / 1024


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where models are written and removed again")
    parser.add_argument("shapes", nargs="*", choices=[*SHAPES, []])
    options = parser.parse_args()
    print(
        "| model | million weights | largest layer as fp32, MiB | embedding as fp32, MiB | embedding | "
        "MB of the model | to | s | peak resident, MiB |\n|---|---|---|---|---|---|---|---|---|"
    )
    for name in options.shapes or SHAPES:
        folder, shape = options.folder / name, SHAPES[name]
        shutil.rmtree(folder, ignore_errors=True)
        try:
            total, largest = sizes_of(write_model(folder / "source", shape))
            table = 4 * shape.vocabulary * shape.hidden / 2**20
            for bits in (16, 6):
                model = folder / f"model-{bits}"
                config = QuantizationConfig(strategy="absmean", max_planes=1, embedding_bits=bits)
                quantize_model(folder / "source", config, out=model)
                megabytes = sum(path.stat().st_size for path in model.iterdir()) / 1e6
                for kind in ("gguf", "huggingface"):
                    out = folder / f"{kind}-{bits}"
                    seconds, resident = measure(kind, model, out)
                    print(
                        f"| {name} | {total / 1e6:.0f} | {4 * largest / 2**20:.0f} | {table:.0f} "
                        f"| {bits} bits | {megabytes:.0f} | {kind} | {seconds:.1f} | {resident:.0f} |",
                        flush=True,
                    )
                    shutil.rmtree(out) if out.is_dir() else out.unlink()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
