"""How prices are worked out: pure functions on whole quantities and exact fractions of the minor unit."""
