"""Exact fits of many cells at once, behind one door: `fit_logistic`. docs/solver.md says how they are made."""
