"""The content-addressed store of the results of the language model, and its inventory."""
