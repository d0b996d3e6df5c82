"""What may still be used: rates, months, storage; reserved before the work and settled after it."""
