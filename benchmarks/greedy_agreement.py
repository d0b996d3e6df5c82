"""How many greedy texts equal those of transformers, by length of prompt, and how many of its own do.

`python benchmarks/greedy_agreement.py`: 50 prompts, 100 tokens each, float32. transformers is run with eager
attention (the oracle), and once more with its other attention, `sdpa`: what it cannot keep of itself is what
the order of float32 sums decides.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from tritium.model.pretrained import load_model

ROOT = Path(__file__).resolve().parent.parent
PROMPTS, CONTINUATION = 50, 100
LENGTHS = (2, 4, 8, 16, 64)


def oracle_of_the_tests() -> Any:
    """Load the oracle that the tests use."""
    path = ROOT / "tests/library/model/conftest.py"
    spec = importlib.util.spec_from_file_location("oracle", path)
    if spec is None or spec.loader is None:
        sys.exit(f"{path} is missing")
    module = importlib.util.module_from_spec(spec)
    sys.modules["oracle"] = module
    spec.loader.exec_module(module)
    return module


def beginnings(tokenizer: Any, text: str, length: int) -> np.ndarray:
    """Return the first tokens of documents from all over the text, [PROMPTS, length]."""
    encoded = [[0, *tokenizer.encode(document, add_special=False)] for document in text.split("\n\n")]
    long_enough = [ids[:length] for ids in encoded if len(ids) > length]
    chosen = np.linspace(0, len(long_enough) - 1, PROMPTS).astype(int)
    return np.array([long_enough[index] for index in chosen])


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    module = oracle_of_the_tests()
    oracle = module.Oracle(torch, transformers)
    text = (ROOT / "examples/text/held_out.txt").read_text(encoding="utf-8")
    print("| checkpoint | prompt tokens | ours = transformers | transformers sdpa = eager |")
    print("|---|---|---|---|")
    for name in ("scripture-bitnet-6m-bitlinear", "scripture-bitnet-6m-offline"):
        path = ROOT / "examples/models" / name
        loaded = load_model(path)
        eager, sdpa = oracle.load(path), oracle.load(path, attention="sdpa")
        for length in LENGTHS:
            prompts = beginnings(loaded.tokenizer, text, length)
            expected, _ = oracle.greedy(eager, prompts, CONTINUATION)
            itself, _ = oracle.greedy(sdpa, prompts, CONTINUATION)
            ours = module.greedy(loaded.generator, prompts, CONTINUATION)
            same = [int((found == expected).all(axis=1).sum()) for found in (ours, itself)]
            print(f"| {name} | {length} | {same[0]} of {PROMPTS} | {same[1]} of {PROMPTS} |", flush=True)


if __name__ == "__main__":
    main()
