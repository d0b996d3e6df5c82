"""The books in memory: the same promises as in SQL until the process ends; for tests and simulation."""
