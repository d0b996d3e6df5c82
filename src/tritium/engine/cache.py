"""Which blocks of the key-value cache belong to whom: a fixed number of blocks, handed out and taken back."""

from __future__ import annotations

from tritium.errors import ResourceError


class BlockAllocator:
    """Hands out blocks of `block_size` token positions; a block belongs to at most one sequence."""

    def __init__(self, *, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        # The most recently freed block is reused first: it is the one that is warm in the processor's cache.
        self._free = list(range(num_blocks - 1, -1, -1))
        self._is_used = bytearray(num_blocks)

    @property
    def num_free(self) -> int:
        """Blocks nobody holds."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Blocks somebody holds."""
        return self.num_blocks - len(self._free)

    def blocks_for(self, num_tokens: int) -> int:
        """Return how many blocks so many token positions need."""
        return -(-num_tokens // self.block_size)

    def extend(self, blocks: list[int], *, num_tokens: int) -> bool:
        """Append free blocks until `blocks` holds so many tokens; False (none taken) if too few are free."""
        missing = self.blocks_for(num_tokens) - len(blocks)
        if missing > len(self._free):
            return False
        for _ in range(missing):
            block = self._free.pop()
            self._is_used[block] = 1
            blocks.append(block)
        return True

    def release(self, blocks: list[int]) -> None:
        """Take back all blocks of a sequence and empty its list.

        Raises:
            ResourceError: a block was free already: two sequences would have shared it.
        """
        while blocks:
            block = blocks.pop()
            if not self._is_used[block]:
                raise ResourceError("A block of the key-value cache was given back twice.", block=block)
            self._is_used[block] = 0
            self._free.append(block)
