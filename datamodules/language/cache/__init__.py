"""The content-addressed store of what the language model made, and its inventory."""
