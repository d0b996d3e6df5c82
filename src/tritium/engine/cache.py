"""Which blocks of the key-value cache belong to whom: counted references, prefixes that are found again."""

from __future__ import annotations

import hashlib
import secrets
from array import array
from collections import OrderedDict
from typing import TYPE_CHECKING

from tritium.errors import ResourceError

if TYPE_CHECKING:
    from collections.abc import Sequence

_KEY_BYTES = 16


class BlockAllocator:
    """Hands out blocks of `block_size` token positions; sequences with the same prefix hold the same blocks.

    A full block whose keys and values are computed is remembered under a hash of its tokens, of all tokens
    before them and of a salt, and keeps its content after the last holder has left, until its memory is
    needed: least recently used first. Nobody writes into a full block, so nothing is ever copied. Hashes are
    keyed by a number of this allocator alone: outside of it none can be predicted.
    """

    def __init__(self, *, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        # The most recently freed block is reused first: it is the one that is warm in the processor's cache.
        self._free = list(range(num_blocks - 1, -1, -1))
        self._references = [0] * num_blocks
        self._idle: OrderedDict[int, None] = OrderedDict()  # remembered, held by nobody, oldest first
        self._block_of: dict[bytes, int] = {}
        self._key_of: list[bytes | None] = [None] * num_blocks
        self._is_touched = bytearray(num_blocks)  # by block: somebody may have written to it
        self._secret = secrets.token_bytes(32)

    @property
    def num_free(self) -> int:
        """Blocks nobody holds, remembered ones among them."""
        return len(self._free) + len(self._idle)

    @property
    def num_used(self) -> int:
        """Blocks somebody holds."""
        return self.num_blocks - self.num_free

    @property
    def num_idle(self) -> int:
        """Blocks nobody holds whose content is remembered."""
        return len(self._idle)

    @property
    def num_touched(self) -> int:
        """Blocks that take memory: they were handed out since the cache was empty or was emptied."""
        return self._is_touched.count(1)

    def blocks_for(self, num_tokens: int) -> int:
        """Return how many blocks so many token positions need."""
        return -(-num_tokens // self.block_size)

    def extend(self, blocks: list[int], *, num_tokens: int) -> bool:
        """Append free blocks until `blocks` holds so many tokens; False (none taken) if too few are free."""
        missing = self.blocks_for(num_tokens) - len(blocks)
        if missing > self.num_free:
            return False
        for _ in range(missing):
            block = self._free.pop() if self._free else self._forget_oldest()
            self._references[block] = 1
            self._is_touched[block] = 1
            blocks.append(block)
        return True

    def release(self, blocks: list[int]) -> None:
        """Give back all blocks of a sequence and empty its list.

        Raises:
            ResourceError: a block was free already: two sequences would have written into it.
        """
        while blocks:  # the last ones first: of a prefix, what nobody can reach without the rest goes first
            block = blocks.pop()
            if not self._references[block]:
                raise ResourceError("A block of the key-value cache was given back twice.", block=block)
            self._references[block] -= 1
            if self._references[block]:
                continue
            if self._key_of[block] is None:
                self._free.append(block)
            else:
                self._idle[block] = None

    def share_prefix(self, tokens: Sequence[int], *, salt: str) -> tuple[list[int], list[bytes]]:
        """Take part in the longest remembered prefix; return its blocks and their keys.

        At least one token stays to be computed: its logits are what comes next.
        """
        blocks: list[int] = []
        keys: list[bytes] = []
        for place in range((len(tokens) - 1) // self.block_size):
            key = self._key(tokens, place, keys, salt)
            block = self._block_of.get(key)
            if block is None:
                break
            self._idle.pop(block, None)
            self._references[block] += 1
            blocks.append(block)
            keys.append(key)
        return blocks, keys

    def remember(
        self, tokens: Sequence[int], blocks: Sequence[int], keys: list[bytes], *, num_computed: int, salt: str
    ) -> None:
        """Remember the full blocks of the first `num_computed` tokens; `keys` grows from call to call."""
        for place in range(len(keys), num_computed // self.block_size):
            key = self._key(tokens, place, keys, salt)
            keys.append(key)
            if key not in self._block_of:  # somebody computed the same at the same time: one is enough
                self._block_of[key] = blocks[place]
                self._key_of[blocks[place]] = key

    def forget_idle(self) -> list[int]:
        """Forget every prefix that nobody holds; return the free blocks whose memory can be given back."""
        while self._idle:
            self._free.append(self._forget_oldest())
        emptied = sorted(block for block in self._free if self._is_touched[block])
        for block in emptied:
            self._is_touched[block] = 0
        return emptied

    def _key(self, tokens: Sequence[int], place: int, keys: Sequence[bytes], salt: str) -> bytes:
        before = keys[place - 1] if place else salt.encode()
        own = array("q", tokens[place * self.block_size : (place + 1) * self.block_size]).tobytes()
        digest = hashlib.blake2b(
            key=self._secret, digest_size=_KEY_BYTES, person=b"block" if place else b"first"
        )
        digest.update(own)  # of one length: what follows cannot be mistaken for it
        digest.update(before)
        return digest.digest()

    def _forget_oldest(self) -> int:
        block, _ = self._idle.popitem(last=False)
        key = self._key_of[block]
        if key is not None:
            del self._block_of[key]
            self._key_of[block] = None
        return block
