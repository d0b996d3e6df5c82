"""Reconciliation: the same month told by uses, counters, lines, journal and payments, compared."""
