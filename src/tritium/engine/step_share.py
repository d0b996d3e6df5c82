"""What one step has left for whose prompts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tritium.engine.fair_share import ANSWER_PRICE, PROMPT_PRICE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tritium.engine.sequence import Sequence
    from tritium.engine.turns import SchedulingPolicy

MOST_OF_ONE = 128  # prompt tokens that a tenant has in a step beyond pacing: whoever comes waits for the step


class StepShare:
    """Divides what a step has left beside those that write among prompts.

    Where tenants have shares, the prompt of the tenant that has least in this step, over its weight, comes
    first. A prompt is not paced while its tenant has less than one that has more requests waiting: who asks
    for more than there is has no claim that others are held up for its sake. Beyond pacing no tenant has
    more than `MOST_OF_ONE` tokens of prompts in a step, since a step cannot be interrupted.

    Args:
        writing: who gets one token each.
        policy: tells whether tenants have shares, and who has more waiting.
        budget: the most tokens that prompts may have.
        paced: the most that they may have for the sake of those who write; 0 for a step that is to be
            measured without prompts, None where it does not matter.
    """

    def __init__(
        self,
        writing: Iterable[Sequence],
        *,
        policy: SchedulingPolicy[Sequence],
        budget: int,
        paced: int | None,
    ) -> None:
        self._policy = policy
        self._is_shared = policy.is_shared
        self._budget = budget
        self._paced = budget if paced is None else min(budget, paced)
        self._is_paced = paced is not None
        self._is_measured = paced == 0
        self._prompts: Counter[str] = Counter()  # tokens by tenant
        self._prices: Counter[str] = Counter()
        self._flood = 0.0  # the most of a tenant that has more waiting, over its weight
        if self._is_shared:
            self._count_answers(writing)

    @property
    def is_full(self) -> bool:
        """Whether nobody gets any more."""
        return self._budget <= 0

    def place(self, sequence: Sequence) -> float:
        """Return the place of a prompt: the lowest comes first, equal ones as the policy ranks them."""
        return self._prices[sequence.tenant] / sequence.weight if self._is_shared else 0.0

    def left_for(self, sequence: Sequence) -> int:
        """Return how many tokens of its prompt a sequence may compute in this step."""
        left = self._paced
        if self._is_shared:
            own = MOST_OF_ONE - self._prompts[sequence.tenant]
            is_behind = self.place(sequence) < self._flood
            if not self._is_paced:
                left = min(left, own)
            elif is_behind and not self._is_measured:
                left = max(left, own)
        return max(0, min(left, self._budget))

    def take(self, sequence: Sequence, num_tokens: int) -> None:
        """Take note of a prompt's tokens."""
        self._budget -= num_tokens
        self._paced -= num_tokens
        if self._is_shared:
            self._prompts[sequence.tenant] += num_tokens
            self._prices[sequence.tenant] += PROMPT_PRICE * num_tokens

    def _count_answers(self, writing: Iterable[Sequence]) -> None:
        one_of = {sequence.tenant: sequence for sequence in writing}
        for tenant, count in Counter([sequence.tenant for sequence in writing]).items():
            self._prices[tenant] = ANSWER_PRICE * count
            if self._policy.has_more(one_of[tenant]):
                self._flood = max(self._flood, self.place(one_of[tenant]))
