"""Evidence that controls operated, gathered from our own state; a person judges what it is worth."""
