"""Who did what to which resource, and how it ended: an append-only Merkle log that proves itself."""
