"""Does llama.cpp compute what we compute? Perplexity of exported files there and here, on the same windows.

    python benchmarks/gguf_oracle.py [--peer .venv-peers/bin/python] [--tokens 16384]

The peer is a Python with llama-cpp-python (`make bench-peers` builds one). The models are the trained ones of
examples/; the BitNet was trained with squared ReLU, which llama.cpp has no graph for, so it is run with SiLU
in both: a bad model, but the same one. The last two files must be refused.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tritium import export_gguf, quantize_model
from tritium.model.pretrained import load_model
from tritium.quantize import QuantizationConfig
from tritium.quantize.estimate import perplexity
from tritium.quantize.evaluate import generator_windows, run_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "examples/models"
WINDOW = 256
REFUSED = 3  # how side_by_side.llama_cpp_losses ends if llama.cpp does not load the file


@dataclass(frozen=True)
class Case:
    """One exported file."""

    label: str
    model: str
    ternary: str = "tq2_0"
    embedding: str = "q6_k"


CASES = (
    Case("llama, a scale per 256", "group256", embedding="f32"),
    Case("llama, a scale per 256", "group256"),
    Case("llama, a scale per 256", "group256", ternary="tq1_0"),
    Case("llama, a scale per row", "row", embedding="f32"),
    Case("llama, a scale per tensor", "tensor", embedding="f32"),
    Case("bitnet with SiLU", "bitnet", embedding="f32"),
    Case("llama, 2 planes", "planes"),
    Case("bitnet-b1.58", "relu2", ternary="i2_s"),
)


def make_models(folder: Path) -> None:
    """Write the models of all cases."""
    llama, bitnet = MODELS / "scripture-llama-6m", MODELS / "scripture-bitnet-6m-offline"
    configs = {
        "group256": QuantizationConfig(group_size=256, max_planes=1),
        "row": QuantizationConfig(group_size=0, max_planes=1),
        "tensor": QuantizationConfig(strategy="absmean", max_planes=1),
        "planes": QuantizationConfig(group_size=256, min_planes=2, max_planes=2),
    }
    for name, config in configs.items():
        quantize_model(llama, config, out=folder / name)
    shutil.copytree(bitnet, folder / "relu2")
    shutil.copytree(bitnet, folder / "bitnet")
    declared = json.loads((bitnet / "config.json").read_text())
    (folder / "bitnet" / "config.json").write_text(json.dumps(declared | {"hidden_act": "silu"}))


def losses_of_llama_cpp(
    peer: str, file: Path, windows: NDArray[np.int32], folder: Path
) -> NDArray[np.float64] | str:
    """Return llama.cpp's loss of each window, or why it does not load the file."""
    np.save(folder / "windows.npy", windows)
    done = subprocess.run(
        [
            peer,
            "-m",
            "side_by_side.llama_cpp_losses",
            file,
            folder / "windows.npy",
            folder / "losses.npy",
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == REFUSED:
        return done.stderr.strip()
    done.check_returncode()
    losses: NDArray[np.float64] = np.load(folder / "losses.npy")
    return losses


def row(case: Case, *, peer: str, tokens: int, folder: Path) -> str:
    """Export one case, run both, and return a line of the table."""
    file = folder / "model.gguf"
    export_gguf(folder / case.model, file, ternary_type=case.ternary, embedding_type=case.embedding)
    loaded = load_model(folder / case.model, threads=1)
    text = (ROOT / "examples/text/held_out.txt").read_text(encoding="utf-8")
    windows = [
        window
        for window in generator_windows(loaded, text, window=WINDOW, limit=tokens)
        if len(window) == WINDOW
    ]
    ours = run_generator(loaded, windows)
    theirs = losses_of_llama_cpp(peer, file, np.stack(windows), folder)
    label = f"| {case.label} | {case.ternary.upper()} | {case.embedding.upper()} |"
    own = math.exp(ours.losses.sum() / ours.counts.sum())
    if isinstance(theirs, str):
        return f"{label} {own:.3f} | refused | {theirs} |"
    ratio = perplexity(theirs - ours.losses, ours.counts)
    their = math.exp(theirs.sum() / ours.counts.sum())
    return f"{label} {own:.3f} | {their:.3f} | {ratio.value:.4f} [{ratio.low:.4f}, {ratio.high:.4f}] |"


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", default=str(ROOT / ".venv-peers/bin/python"))
    parser.add_argument("--tokens", type=int, default=16_384)
    arguments = parser.parse_args()
    print("| model | type | embeddings | ours | llama.cpp | llama.cpp / ours [95 %] |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_models(folder)
        for case in CASES:
            line = row(case, peer=arguments.peer, tokens=arguments.tokens, folder=folder)
            print(line, flush=True)


if __name__ == "__main__":
    main()
