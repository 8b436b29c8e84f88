"""Scores of new answers by the probes of a run: in Python, while a model writes, and as experiment=score."""
