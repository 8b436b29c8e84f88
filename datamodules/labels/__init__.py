"""Which answers are right, and where their exact answers are."""
