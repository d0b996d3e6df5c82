"""What an attack looks like, how dangerous it is, and what is done about it at once."""
