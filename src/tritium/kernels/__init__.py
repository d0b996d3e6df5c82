"""The arithmetic: ternary and dense products, norms, attention, sampling, for the processors that exist."""
