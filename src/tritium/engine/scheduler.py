"""Who computes how many tokens in the next step: running requests first, then waiting ones, in one budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tritium.engine.cache import BlockAllocator
    from tritium.engine.sequence import Sequence

_SETTLED = 4  # tokens of an answer, from which on it is not held up by prompts
MOST_SCORED = 64  # tokens of prompts that one step scores: each takes a row as wide as the vocabulary


class SchedulingPolicy(Protocol):
    """Holds the sequences that wait, says whose turn it is, and is told who gets what."""

    def __len__(self) -> int:
        """Return how many sequences wait."""

    def add(self, sequence: Sequence) -> None:
        """Let a new sequence wait."""

    def next(self) -> Sequence | None:
        """Return the one that waits and shall run next: None if nobody waits."""

    def start(self, sequence: Sequence) -> None:
        """Take note that the next one runs; what of its prompt is computed already, it shares."""

    def stop(self, sequence: Sequence) -> None:
        """Take note that a running sequence lost its blocks, and waits again."""

    def charge(self, sequence: Sequence) -> None:
        """Take note that a sequence was given a token of its answer."""

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, whether it waits or runs."""

    def rank(self, sequence: Sequence) -> tuple[float, ...]:
        """Return the place of a running sequence, unique per sequence.

        The lowest gets its tokens first, the highest gives its blocks back first.
        """


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next `num_tokens` uncomputed tokens of a sequence."""

    sequence: Sequence
    num_tokens: int

    @property
    def num_logits(self) -> int:
        """How many of its last tokens logits are needed of: those to be scored, and the sequence's last."""
        return self.num_tokens if self.sequence.scores_prompt else int(self.needs_logits)

    @property
    def needs_logits(self) -> bool:
        """Whether the chunk reaches the sequence's end, so that the next token can be chosen."""
        return self.num_tokens == self.sequence.num_uncomputed


class Scheduler:
    """Keeps the waiting and the running sequences.

    Prefill and decode are one thing here: every sequence catches up with its own tokens. A sequence that
    finds no free block takes those of the highest-ranked one, which starts over later (its text stays).
    """

    def __init__(
        self,
        allocator: BlockAllocator,
        *,
        policy: SchedulingPolicy,
        max_batched_tokens: int,
        max_running: int,
        shares_prefixes: bool = False,
    ) -> None:
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self._allocator = allocator
        self._policy = policy
        self._max_batched_tokens = max_batched_tokens
        self._max_running = max_running
        self._shares_prefixes = shares_prefixes
        self._scored_left = MOST_SCORED

    @property
    def num_waiting(self) -> int:
        """Sequences that hold no place in the batch."""
        return len(self._policy)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self._policy.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence in whatever state, and free its blocks."""
        if sequence in self.running:
            self.running.remove(sequence)
        self._policy.remove(sequence)
        self._allocator.release(sequence.blocks)

    def limit(self, *, max_running: int, max_batched_tokens: int) -> None:
        """Work within other limits from the next step on; who has no place any more waits again."""
        self._max_running, self._max_batched_tokens = max_running, max_batched_tokens
        while len(self.running) > max_running:
            self._preempt(max(self.running, key=self._policy.rank))

    def record_token(self, sequence: Sequence) -> None:
        """Take note that a sequence was given a token."""
        self._policy.charge(sequence)

    def remember(self, sequence: Sequence) -> None:
        """Let later requests find what a running sequence has computed."""
        if self._shares_prefixes:
            self._allocator.remember(
                sequence.tokens,
                sequence.blocks,
                sequence.block_keys,
                num_computed=sequence.num_computed,
                salt=sequence.request.cache_salt,
            )

    def schedule(self, *, prompt_tokens: int | None = None) -> list[Chunk]:
        """Choose the chunks of the next step; every chunk's blocks are reserved on return.

        Args:
            prompt_tokens: the most prompt tokens that may ride along with sequences that write; None for
                whatever the budget has left. It does not hold while all who write have only begun: those who
                come together start together, and share all later steps.
        """
        chunks: list[Chunk] = []
        self._scored_left = MOST_SCORED
        preemptions_before = self.num_preemptions
        budget = self._schedule_running(chunks, self._max_batched_tokens, prompt_tokens)
        # Whoever was preempted must not be overtaken by its own blocks going to a newcomer.
        if self.num_preemptions == preemptions_before:
            self._admit_waiting(chunks, budget)
        return chunks

    def _schedule_running(self, chunks: list[Chunk], budget: int, prompt_tokens: int | None) -> int:
        # One token each for those who are writing, before long prompts take the rest of the budget.
        ordered = sorted(self.running, key=lambda s: (s.num_uncomputed > 1, self._policy.rank(s)))
        writing = [sequence for sequence in ordered if sequence.num_uncomputed == 1]
        has_settled = any(sequence.num_generated >= _SETTLED for sequence in writing)
        if has_settled and prompt_tokens is not None:
            budget = min(budget, len(writing) + prompt_tokens)
        while ordered and budget:
            sequence = ordered.pop(0)
            num_tokens = min(self._computable(sequence), budget)
            if not num_tokens:
                continue
            while not self._reserve(sequence, num_tokens):
                # Only who is not yet scheduled in this step may lose: what was promised stays promised.
                victim = max([sequence, *ordered], key=self._policy.rank)
                self._preempt(victim)
                if victim is sequence:
                    break
                ordered.remove(victim)
            else:
                budget -= self._take(sequence, num_tokens, chunks)
        return budget

    def _admit_waiting(self, chunks: list[Chunk], budget: int) -> None:
        while budget and len(self.running) < self._max_running:
            sequence = self._policy.next()
            if sequence is None:
                return
            if self._shares_prefixes and not sequence.scores_prompt:  # what others computed cannot be scored
                self._share_prefix(sequence)
            num_tokens = min(self._computable(sequence), budget)
            if not self._reserve(sequence, num_tokens):
                self._give_back(sequence)
                return  # nobody overtakes: who needs much would wait for ever
            if not sequence.num_preemptions:  # later it finds what it has computed itself
                sequence.num_cached = sequence.num_computed
            self._policy.start(sequence)
            self.running.append(sequence)
            if num_tokens:  # none are left in this step for one more prompt to be scored
                budget -= self._take(sequence, num_tokens, chunks)

    def _computable(self, sequence: Sequence) -> int:
        """Return how many tokens of a sequence a step could compute, were there no budget of tokens."""
        wanted = sequence.num_uncomputed
        return min(wanted, self._scored_left) if sequence.scores_prompt else wanted

    def _take(self, sequence: Sequence, num_tokens: int, chunks: list[Chunk]) -> int:
        chunks.append(Chunk(sequence, num_tokens))
        if sequence.scores_prompt:
            self._scored_left -= num_tokens
        return num_tokens

    def _share_prefix(self, sequence: Sequence) -> None:
        salt = sequence.request.cache_salt
        sequence.blocks, sequence.block_keys = self._allocator.share_prefix(sequence.tokens, salt=salt)
        sequence.num_computed = len(sequence.blocks) * self._allocator.block_size

    def _give_back(self, sequence: Sequence) -> None:
        self._allocator.release(sequence.blocks)
        sequence.num_computed = 0
        sequence.block_keys = []

    def _reserve(self, sequence: Sequence, num_tokens: int) -> bool:
        has_room = self._allocator.extend(sequence.blocks, num_tokens=sequence.num_computed + num_tokens)
        sequence.peak_blocks = max(sequence.peak_blocks, len(sequence.blocks))
        return has_room

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._allocator.release(sequence.blocks)
        sequence.forget_computed()
        self._policy.stop(sequence)
        self.num_preemptions += 1
