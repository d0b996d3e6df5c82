"""The checks, one file per family; each has a test that breaks its control and expects it to fail."""
