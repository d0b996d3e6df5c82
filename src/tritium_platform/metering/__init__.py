"""What was used: exactly once, for ever."""
