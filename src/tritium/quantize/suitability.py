"""Whether a text can calibrate a model: enough of it, and in a language that the tokenizer knows.

A text that is too short or in another script does not fail: it calibrates, badly and in silence. So what is
certainly wrong is refused before any work, and what is likely to be wrong is told with its numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tritium.errors import ValidationError
from tritium.quantize.inputs import JUDGED_SHARE
from tritium.quantize.text import read_text, spread

if TYPE_CHECKING:
    from tritium.model.tokenizer import Tokenizer
    from tritium.quantize.config import QuantizationConfig

PIECE_CHARACTERS = 4096
PIECES = 64  # of a long text; a shorter one is read whole
BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")  # what stands for a byte of a character without a token
# Fewer would be fitted and judged on the same tokens: the reported error would be a guess at itself.
FEWEST_TOKENS = JUDGED_SHARE
# H is damped, so that a third of a layer's inputs still calibrates (docs/measurements/quality.md, MiniLM).
INPUTS_PER_TOKEN = 4
ALL_UNKNOWN, MANY_UNKNOWN, MANY_BYTES = 0.95, 0.05, 0.2  # shares of tokens
UNLIKE = 2.0  # so many times the characters per token of the validation text


@dataclass(frozen=True, kw_only=True, slots=True)
class TextFit:
    """What a tokenizer makes of a text.

    Attributes:
        tokens: of the whole text; estimated where only pieces of it were read.
        characters_per_token: its mean length.
        unknown: share of tokens that stand for what the tokenizer does not know.
        bytes: share of tokens that stand for one byte of a character it has no token for.
    """

    tokens: int
    characters_per_token: float
    unknown: float
    bytes: float

    @classmethod
    def of(cls, text: str, tokenizer: Tokenizer) -> TextFit:
        """Tokenise a text, or evenly spread pieces of a long one."""
        pieces = [text[start : start + PIECE_CHARACTERS] for start in range(0, len(text), PIECE_CHARACTERS)]
        read = spread(pieces, count=PIECES)
        ids = np.array([one for piece in read for one in tokenizer.encode(piece, add_special=False)])
        characters, count = sum(map(len, read)), max(1, len(ids))
        unknown, single_bytes = _rare_tokens(tokenizer.definition["model"])
        return cls(
            tokens=round(len(ids) * len(text) / characters),
            characters_per_token=characters / count,
            unknown=float(np.isin(ids, unknown).sum()) / count,
            bytes=float(np.isin(ids, single_bytes).sum()) / count,
        )


def check_calibration(config: QuantizationConfig, tokenizer: Tokenizer, *, widest: int) -> tuple[str, ...]:
    """Return what should be known of the calibration text; nothing where there is none.

    Args:
        config: names the texts.
        tokenizer: of the model.
        widest: the most inputs a layer has.

    Raises:
        ValidationError: the text has too few tokens to fit and judge anything, or all of it is unknown.
    """
    if config.calibration_text is None:
        return ()
    fit = TextFit.of(read_text(config.calibration_text), tokenizer)
    if fit.unknown >= ALL_UNKNOWN:
        raise ValidationError(
            f"The tokenizer knows nothing of the calibration text: {fit.unknown:.0%} of its tokens are "
            "unknown. Give a text in a language of the model.",
            field="calibration_text",
        )
    if fit.tokens < FEWEST_TOKENS:
        raise ValidationError(
            f"The calibration text is too short: it has {fit.tokens} tokens, and {FEWEST_TOKENS} are needed "
            "to fit layers on some and judge them on others.",
            field="calibration_text",
        )
    other = None
    if config.validation_text is not None:
        other = TextFit.of(read_text(config.validation_text), tokenizer)
    return tuple(_doubts(fit, other, tokens=min(fit.tokens, config.calibration_tokens), widest=widest))


def _doubts(fit: TextFit, other: TextFit | None, *, tokens: int, widest: int) -> list[str]:
    found = []
    if INPUTS_PER_TOKEN * tokens < widest:
        found.append(
            f"{tokens} calibration tokens are few for layers of {widest} inputs: "
            f"{-(-widest // INPUTS_PER_TOKEN)} or more tell what each input does."
        )
    if fit.unknown > MANY_UNKNOWN:
        found.append(f"{fit.unknown:.0%} of the calibration text's tokens are unknown to the tokenizer.")
    if fit.bytes > MANY_BYTES or fit.characters_per_token < 1:
        found.append(
            f"The tokenizer spells the calibration text byte by byte ({fit.characters_per_token:.2f} "
            "characters a token): the model was hardly trained on this script."
        )
    ratio = 1.0 if other is None else fit.characters_per_token / other.characters_per_token
    if other is not None and not 1 / UNLIKE <= ratio <= UNLIKE:
        found.append(
            f"Calibration and validation text are unlike: {fit.characters_per_token:.2f} and "
            f"{other.characters_per_token:.2f} characters a token. Calibrate on what the model will read."
        )
    return found


def _rare_tokens(model: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Return the ids of the unknown token and of single bytes, from a tokenizer's definition."""
    vocabulary = model.get("vocab", {})
    if isinstance(vocabulary, list):  # Unigram: [token, score]
        vocabulary = {token: index for index, (token, _) in enumerate(vocabulary)}
    unknown = [model["unk_id"]] if isinstance(model.get("unk_id"), int) else []
    if model.get("unk_token") in vocabulary:
        unknown.append(vocabulary[model["unk_token"]])
    return unknown, [index for token, index in vocabulary.items() if BYTE_TOKEN.fullmatch(token)]
