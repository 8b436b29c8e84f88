"""Many jobs of one command: their names, what they share, their results."""
