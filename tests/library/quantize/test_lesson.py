"""What layers learn on, and gradients that two threads work out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tritium.model.pretrained import load_model
from tritium.quantize import QuantizationConfig, plan_quantization

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

torch = pytest.importorskip("torch")

from tritium.quantize.lesson_text import Pieces, lesson_text  # noqa: E402 - it needs torch
from tritium.quantize.shards import Batch, backward  # noqa: E402 - it needs torch

SENTENCES = "the cat sat on a mat. a cat sat on the mat. the mat sat on a cat. "
TEXT = SENTENCES * 40


def of(source: Path, **settings: object) -> Pieces:
    plan = plan_quantization(source, QuantizationConfig(profile="best", window=64, **settings))
    text = lesson_text(plan, source, load_model(source))
    assert isinstance(text, Pieces)
    return text


def test_an_encoder_learns_on_pieces_of_any_length_from_anywhere_as_it_reads_them(small_encoder):
    text = of(small_encoder, calibration_text=TEXT)
    tokenizer = load_model(small_encoder).tokenizer
    plain = tokenizer.encode(TEXT, add_special=False)
    assert list(text.text) == plain
    empty = tokenizer.encode("")
    assert [*text.before, *text.after] == empty
    chance, lengths, firsts = np.random.default_rng(0), set(), set()
    for _ in range(200):
        token_ids, is_token = text.draw(chance, tokens=256)
        assert bool(is_token.all())
        assert 256 / 2 <= token_ids.numel() <= 256 * 1.5
        lengths.add(token_ids.shape[1] - len(empty))
        for row in token_ids.tolist():
            body = row[len(text.before) : len(row) - len(text.after)]
            assert row == [*text.before, *body, *text.after]
            starts = [at for at in range(len(plain)) if plain[at : at + len(body)] == body]
            assert starts
            firsts.add(starts[0])
    longest = 16 - len(empty)  # the model has 16 positions
    assert lengths == set(range(longest // 5, longest + 1))
    assert len(firsts) >= len(tokenizer.encode(SENTENCES, add_special=False))


def test_a_text_that_is_shorter_than_a_piece_is_learned_all_the_same(small_encoder):
    text = of(small_encoder, calibration_text=SENTENCES)
    short = text._replace(text=text.text[:3])
    token_ids, _ = short.draw(np.random.default_rng(0), tokens=8)
    assert token_ids.shape[1] <= 3 + len(text.before) + len(text.after)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_halves_give_the_gradients_of_the_whole_on_any_number_of_threads(rows):
    generator = torch.Generator().manual_seed(rows)
    latent = torch.randn(5, 3, generator=generator, requires_grad=True)
    token_ids = torch.randint(0, 3, (rows, 4), generator=generator)
    batch = Batch(token_ids, torch.rand(rows, 4, generator=generator) < 0.8)

    def loss_of(part: Batch, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return ((weights["w"][:, part.token_ids] * part.is_token).square().sum(dim=(0, 2))).mean()

    loss_of(batch, {"w": 2 * latent}).backward()
    expected, found = latent.grad.clone(), []
    for threads in (1, 2):
        latent.grad = None
        with ThreadPoolExecutor(threads) as executor:
            loss = backward(batch, {"w": lambda: 2 * latent}, loss_of=loss_of, executor=executor)
        found.append(latent.grad.clone())
        torch.testing.assert_close(loss, loss_of(batch, {"w": 2 * latent}).detach())
        torch.testing.assert_close(latent.grad, expected)
    assert torch.equal(*found)
