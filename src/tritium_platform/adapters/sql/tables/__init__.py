"""The tables, one file per room."""
