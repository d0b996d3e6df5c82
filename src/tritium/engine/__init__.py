"""Continuous batching over a paged key-value cache: requests in, tokens out."""
