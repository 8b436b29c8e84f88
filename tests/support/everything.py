"""What a run imports, for the process from which others are forked."""

import gc

import matplotlib.backends.backend_agg
import matplotlib.backends.backend_pdf
import pytorch_lightning
import seaborn
import sklearn.feature_extraction.text
import sklearn.linear_model
import transformers.models.llama.modeling_llama

import datamodules.activations
import datamodules.precomputed
import probes.grids.logistic
import probes.grids.minibatch
import probes.report.coincidence
import probes.report.heatmap
import probes.report.record
import probes.report.report
import train

__all__ = ["datamodules", "matplotlib", "probes", "pytorch_lightning", "seaborn", "sklearn", "train", "transformers"]

gc.freeze()  # those that are forked do not look at it when they collect garbage
