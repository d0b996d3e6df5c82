"""What the numbers say about a customer."""
