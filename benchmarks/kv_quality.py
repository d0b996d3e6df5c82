"""What keeping keys and values in fewer bits costs: perplexity, and how often the most likely token changes.

    python benchmarks/kv_quality.py CHECKPOINT ... [--windows 100]

The first windows of 256 tokens of the held-out text, its documents joined by token 0; each dtype of the cache
beside fp32, everything else the same.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tritium.kernels.pages import KV_DTYPES
from tritium.model.batch import ForwardBatch
from tritium.model.pretrained import load_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tritium.kernels.pages import KvDtype
    from tritium.model.decoder import DecoderModel
    from tritium.model.pretrained import LoadedModel

TEXT = Path(__file__).resolve().parent.parent / "examples/text/held_out.txt"
WINDOW = 256  # tokens
BATCH = 4  # windows


def windows_of(loaded: LoadedModel, text: str, count: int) -> NDArray[np.int32]:
    """The first windows [count, WINDOW] of the documents."""
    ids: list[int] = []
    for document in text.split("\n\n"):
        ids += [0, *loaded.tokenizer.encode(document, add_special=False)]
    count = min(count, len(ids) // WINDOW // BATCH * BATCH)
    return np.array(ids[: count * WINDOW], dtype=np.int32).reshape(count, WINDOW)


def read(model: DecoderModel, windows: NDArray[np.int32], dtype: KvDtype) -> tuple[float, NDArray[np.int64]]:
    """The perplexity of the windows, and the most likely next token at every position."""
    losses, most_likely = [], []
    for start in range(0, len(windows), BATCH):
        part = windows[start : start + BATCH]
        batch = ForwardBatch.of_sequences(list(part))
        logits = model.forward(batch, model.new_cache(batch.num_blocks, dtype=dtype)).astype(np.float64)
        logits = logits.reshape(len(part), WINDOW, -1)[:, :-1]
        highest = logits.max(axis=-1, keepdims=True)
        normaliser = highest[..., 0] + np.log(np.exp(logits - highest).sum(axis=-1))
        losses.append(normaliser - np.take_along_axis(logits, part[:, 1:, None], axis=-1)[..., 0])
        most_likely.append(logits.argmax(axis=-1))
    return math.exp(np.mean(np.concatenate(losses))), np.concatenate(most_likely)


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--windows", type=int, default=100)
    options = parser.parse_args()
    print("| checkpoint | cache | perplexity | beside fp32 | same most likely token |")
    print("|---|---|---|---|---|")
    for path in options.checkpoints:
        loaded = load_model(path)
        windows = windows_of(loaded, TEXT.read_text(encoding="utf-8"), options.windows)
        exact, expected = read(loaded.generator, windows, "fp32")
        print(f"| {path.name} | fp32 | {exact:.3f} | | |", flush=True)
        for dtype in (dtype for dtype in KV_DTYPES if dtype != "fp32"):
            found, tokens = read(loaded.generator, windows, dtype)
            cells = f"{found:.3f} | {found / exact - 1:+.4%} | {(tokens == expected).mean():.2%}"
            print(f"| {path.name} | {dtype} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
