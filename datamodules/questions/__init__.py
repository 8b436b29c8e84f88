"""Question sets, and what the words and numbers of a text say."""
