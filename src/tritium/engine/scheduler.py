"""Who computes how many tokens in the next step: running requests first, then waiting ones, in one budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tritium.engine.step_share import StepShare

if TYPE_CHECKING:
    from tritium.engine.cache import BlockAllocator
    from tritium.engine.sequence import Sequence
    from tritium.engine.turns import SchedulingPolicy

_SETTLED = 4  # tokens of an answer, from which on it is not held up by prompts
MOST_SCORED = 64  # tokens of prompts that one step scores: each takes a row as wide as the vocabulary


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
        policy: SchedulingPolicy[Sequence],
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
        self._is_short = False  # of blocks, in this step

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
        self._scored_left = MOST_SCORED
        self._is_short = False
        self._make_place()
        writing, reading = self._in_order()
        chunks = self._write(writing, reading)
        if reading or self._newcomer() is not None:
            written = [chunk.sequence for chunk in chunks]
            has_settled = any(sequence.num_generated >= _SETTLED for sequence in written)
            share = StepShare(
                written,
                policy=self._policy,
                budget=self._max_batched_tokens - len(written),
                paced=self._paced(prompt_tokens, len(written)) if has_settled else None,
            )
            self._read(reading, share, chunks)
        return chunks

    def _paced(self, prompt_tokens: int | None, num_writing: int) -> int | None:
        """Let prompts fill each step up to that of a full batch while more wait than there are places.

        Pacing by what a step of few takes would keep them few.
        """
        if prompt_tokens is not None and len(self._policy) > self._max_running - len(self.running):
            return max(prompt_tokens, self._max_running - num_writing)
        return prompt_tokens

    def _make_place(self) -> None:
        if len(self.running) == self._max_running and len(self._policy):
            victim = self._policy.gives_way(self.running)
            if victim is not None:
                self._preempt(victim)

    def _in_order(self) -> tuple[list[Sequence], list[Sequence]]:
        """Return who writes, and who reads its prompt."""
        writing: list[Sequence] = []
        reading: list[Sequence] = []
        for sequence in self.running:
            (writing if sequence.num_uncomputed == 1 else reading).append(sequence)
        reading.sort(key=self._policy.rank)
        # Ranks cost, and among those that write they count only if there is not enough for all.
        if len(writing) > min(self._max_batched_tokens, self._allocator.num_free):
            writing.sort(key=self._policy.rank)
        return writing, reading

    def _write(self, writing: list[Sequence], reading: list[Sequence]) -> list[Chunk]:
        """Give one token each to those that write, before long prompts take the rest of the budget."""
        chunks: list[Chunk] = []
        writing.reverse()
        while writing and len(chunks) < self._max_batched_tokens:
            sequence = writing.pop()
            if self._computable(sequence) and self._make_room(sequence, 1, writing, reading):
                self._take(sequence, 1, chunks)
        return chunks

    def _read(self, reading: list[Sequence], share: StepShare, chunks: list[Chunk]) -> None:
        """Go on with prompts and begin new ones, each time where a tenant has least in the step."""
        fits = True
        while not share.is_full and (reading or fits):
            first = min(reading, key=share.place, default=None)
            # Who did not fit is tried again at the end: with fewer tokens left it may need fewer blocks.
            newcomer = self._newcomer() if fits else None
            if newcomer is not None and (first is None or share.place(newcomer) < share.place(first)):
                fits = self._begin(newcomer, share, chunks)
            elif first is not None:
                reading.remove(first)
                self._go_on(first, reading, share, chunks)
                fits = fits or not reading
            else:
                return

    def _newcomer(self) -> Sequence | None:
        # Whoever was preempted must not be overtaken by its own blocks going to a newcomer.
        has_place = len(self.running) < self._max_running and not self._is_short
        return self._policy.next() if has_place else None

    def _go_on(
        self, sequence: Sequence, reading: list[Sequence], share: StepShare, chunks: list[Chunk]
    ) -> None:
        num_tokens = min(self._computable(sequence), share.left_for(sequence))
        if num_tokens and self._make_room(sequence, num_tokens, reading):
            share.take(sequence, num_tokens)
            self._take(sequence, num_tokens, chunks)

    def _begin(self, sequence: Sequence, share: StepShare, chunks: list[Chunk]) -> bool:
        """Start who waits; False if it does not fit: nobody overtakes, or who needs much waits for ever."""
        left = share.left_for(sequence)
        if not left:
            return False
        if self._shares_prefixes and not sequence.scores_prompt:  # what others computed cannot be scored
            self._share_prefix(sequence)
        num_tokens = min(self._computable(sequence), left)
        if not self._reserve(sequence, num_tokens):
            self._give_back(sequence)
            return False
        if not sequence.num_preemptions:  # later it finds what it has computed itself
            sequence.num_cached = sequence.num_computed
        self._policy.start(sequence)
        self.running.append(sequence)
        if num_tokens:  # none are left in this step for one more prompt to be scored
            share.take(sequence, num_tokens)
            self._take(sequence, num_tokens, chunks)
        return True

    def _make_room(self, sequence: Sequence, num_tokens: int, *pending: list[Sequence]) -> bool:
        """Reserve blocks, if need be those of whoever comes last; False if that is the sequence itself.

        Only who is not yet scheduled in this step, `pending`, may lose: what was promised stays promised.
        """
        while not self._reserve(sequence, num_tokens):
            self._is_short = True
            victim = max((each for some in ([sequence], *pending) for each in some), key=self._policy.rank)
            self._preempt(victim)
            if victim is sequence:
                return False
            next(some for some in pending if victim in some).remove(victim)
        return True

    def _computable(self, sequence: Sequence) -> int:
        """Return how many tokens of a sequence a step could compute, were there no budget of tokens."""
        wanted = sequence.num_uncomputed
        return min(wanted, self._scored_left) if sequence.scores_prompt else wanted

    def _take(self, sequence: Sequence, num_tokens: int, chunks: list[Chunk]) -> None:
        chunks.append(Chunk(sequence, num_tokens))
        if sequence.scores_prompt:
            self._scored_left -= num_tokens

    def _share_prefix(self, sequence: Sequence) -> None:
        salt = sequence.request.cache_salt
        sequence.blocks, sequence.block_keys = self._allocator.share_prefix(sequence.tokens, salt=salt)
        sequence.num_computed = len(sequence.blocks) * self._allocator.block_size

    def _give_back(self, sequence: Sequence) -> None:
        self._allocator.release(sequence.blocks)
        sequence.num_computed = 0
        sequence.block_keys = []

    def _reserve(self, sequence: Sequence, num_tokens: int) -> bool:
        reach = sequence.num_computed + num_tokens
        if reach <= len(sequence.blocks) * self._allocator.block_size:
            return True
        has_room = self._allocator.extend(sequence.blocks, num_tokens=reach)
        sequence.peak_blocks = max(sequence.peak_blocks, len(sequence.blocks))
        return has_room

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._allocator.release(sequence.blocks)
        sequence.forget_computed()
        self._policy.stop(sequence)
        self.num_preemptions += 1
