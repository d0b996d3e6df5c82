"""Greedy text of transformers, in a process of its own: `greedy_oracle.py COUNT (MODEL PROMPTS OUT)...`.

The order of torch's float32 sums differs from processor to processor, unless MKL is told to be compatible,
and it listens only before it is loaded. Of OUT, `generated` are the texts; the others are the inputs of the
layers. Each MODEL is printed once its OUT is there. One process for all of them: importing transformers takes
as long as a model.
"""

# ruff: noqa: T201 - it says what is done

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch
import transformers


def main(count: str, *tasks: str) -> None:
    spec = importlib.util.spec_from_file_location("oracle", Path(__file__).parent / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["oracle"] = module
    spec.loader.exec_module(module)
    torch.set_num_threads(1)
    oracle = module.Oracle(torch, transformers)
    for model, prompts, out in zip(*[iter(tasks)] * 3, strict=True):
        texts, recording = oracle.greedy(oracle.load(Path(model)), np.load(prompts), int(count))
        inputs = {name: torch.cat(pieces, dim=1).numpy() for name, pieces in recording.pieces.items()}
        np.savez(out, generated=texts, **inputs)
        print(model, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
