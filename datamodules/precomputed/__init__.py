"""Activations that another program computed: from files, or from arrays in memory."""

from datamodules.precomputed.datamodule import PrecomputedDataModule

__all__ = ["PrecomputedDataModule"]
