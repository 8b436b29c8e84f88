"""Callbacks and drawings: what a run writes and prints."""
