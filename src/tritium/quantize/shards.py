"""What a step of learning is off by, worked out by two threads: each has half of the windows.

There are always two halves and their gradients are added in one order, so that the bits are the same on any
number of cores. What makes the weights of a layer, and learns, is a matter of that layer alone.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor

SHARDS = 2


class Batch(NamedTuple):
    """Windows of one step, padded: token ids and which of them are tokens, [B, T]."""

    token_ids: torch.Tensor
    is_token: torch.Tensor

    def shards(self) -> list[Batch]:
        """Return the batch in halves; one of a single window is whole."""
        parts = (part.tensor_split(min(SHARDS, len(part))) for part in self)
        return [Batch(*shard) for shard in zip(*parts, strict=True)]


def backward(
    batch: Batch,
    students: Mapping[str, Callable[[], torch.Tensor]],
    *,
    loss_of: Callable[[Batch, Mapping[str, torch.Tensor]], torch.Tensor],
    executor: Executor,
) -> torch.Tensor:
    """Add the gradients of a batch to what makes its weights; return its loss, the mean of windows."""
    weights = list(executor.map(lambda student: student(), students.values()))
    leaves = [weight.detach().requires_grad_() for weight in weights]

    def learn(shard: Batch) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        loss = loss_of(shard, dict(zip(students, leaves, strict=True)))
        loss = loss * (len(shard.token_ids) / len(batch.token_ids))
        return loss.detach(), torch.autograd.grad(loss, leaves)

    losses, gradients = zip(*executor.map(learn, batch.shards()), strict=True)
    sums = (reduce(torch.add, each) for each in zip(*gradients, strict=True))
    list(executor.map(torch.autograd.backward, weights, sums))
    return torch.stack(losses).sum()
