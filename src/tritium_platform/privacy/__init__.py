"""How personal and sensitive data is kept: encrypted, masked or pseudonymous, and no longer than needed."""
