"""Short pieces to look at: what both generators write, which passages both encoders find alike.

Prompts are cut from the validation text and continued greedily, so the same models give the same samples.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tritium.kernels.pages import BLOCK_SIZE
from tritium.model.batch import ForwardBatch
from tritium.quantize.text import passages, spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tritium.model.pretrained import LoadedModel

SAMPLES = 3
PROMPT_TOKENS = 24
NEW_TOKENS = 32
NEIGHBOURS = 3
LONGEST_QUOTE = 160  # characters of a passage
ENOUGH_TO_BEGIN = 120  # characters of a passage that prompts are preferably cut from


@dataclass(frozen=True)
class Continuation:
    """What a model wrote behind a prompt, and how long it took without the prompt itself."""

    text: str
    steps: int
    seconds: float


def prompts(loaded: LoadedModel, text: str) -> list[list[int]]:
    """Return the beginnings of a few passages, spread over the text, as token ids."""
    found = passages(text)
    chosen = spread([each for each in found if len(each) >= ENOUGH_TO_BEGIN] or found, count=SAMPLES)
    first = loaded.config.bos_token_id
    opening = [] if first is None else [first]
    longest = max(1, min(PROMPT_TOKENS, loaded.config.max_positions // 2))
    ids = [opening + loaded.tokenizer.encode(each, add_special=False) for each in chosen]
    return [each[:longest] for each in ids if each]


def continue_greedily(loaded: LoadedModel, prompt: Sequence[int]) -> Continuation:
    """Continue a prompt by the most likely token at each step, up to the model's end of text."""
    model, length = loaded.generator, min(NEW_TOKENS, loaded.config.max_positions - len(prompt))
    blocks = np.arange(-(-(len(prompt) + length) // BLOCK_SIZE), dtype=np.int32)[None]
    cache = model.new_cache(blocks.size)
    token = int(model.forward(ForwardBatch.of_sequences([prompt]), cache)[-1].argmax())
    written: list[int] = []
    started = time.perf_counter()
    for position in range(len(prompt), len(prompt) + length):
        if token in loaded.config.eos_token_ids:
            break
        written.append(token)
        batch = ForwardBatch(
            token_ids=np.array([token], dtype=np.int32),
            positions=np.array([position], dtype=np.int32),
            sequence_starts=np.array([0, 1], dtype=np.int32),
            block_tables=blocks,
            context_lengths=np.array([position + 1], dtype=np.int32),
            slots=np.array([position], dtype=np.int64),  # the blocks lie in order
            logit_rows=np.zeros(1, dtype=np.int32),
        )
        token = int(model.forward(batch, cache)[0].argmax())
    seconds = time.perf_counter() - started
    return Continuation(text=loaded.tokenizer.decode(written), steps=len(written), seconds=seconds)


def quoted_passage(passage: str) -> str:
    """Return a passage cut to a length that can be read in a table."""
    line = " ".join(passage.split())
    return line if len(line) <= LONGEST_QUOTE else line[: LONGEST_QUOTE - 1].rstrip() + "…"
