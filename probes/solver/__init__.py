"""Exact fits of many cells at once, behind one door: `fit_logistic`."""
