"""Gradients that two threads work out are those of one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

torch = pytest.importorskip("torch")

from tritium.quantize.shards import Batch, backward  # noqa: E402 - it needs torch


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
