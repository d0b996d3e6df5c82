"""Models: configs, layers, one file per architecture, tokenizers, and loading them from disk."""
