"""The grid of mass-mean probes."""

import torch
from torch import Tensor

from probes.grids.exact_grid import ExactGrid
from probes.settings import ClassWeight, check_mass_mean
from probes.solver.mass_mean import fit_mass_mean


class MassMeanGrid(ExactGrid):
    """Mass-mean probes in every cell; see `fit_mass_mean`.

    Args:
        whiten: apply the inverse of the covariance within the classes.
        class_weight: `balanced`: the threshold is that of classes which are equally frequent. See `fit_mass_mean`.

    Example:
        >>> trainer = pl.Trainer(max_epochs=1)  # doctest: +SKIP
        >>> trainer.fit(MassMeanGrid(whiten=True), datamodule=data)  # doctest: +SKIP
    """

    def __init__(self, whiten: bool = False, class_weight: ClassWeight = None) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)  # loggers get the whole configuration
        check_mass_mean(whiten, class_weight)
        self.whiten, self.class_weight = whiten, class_weight
        self.described = f"mass mean{', whitened' if whiten else ''}{', balanced classes' if class_weight else ''}"

    def solve(self, block: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Fit by `fit_mass_mean`."""
        targets = zip(block["labels"], block["valid"], strict=True)
        how = self.whiten, self.class_weight
        fits = [fit_mass_mean(block["acts"], labels, valid, *how) for labels, valid in targets]
        weight, bias = (torch.stack(part) for part in zip(*fits, strict=True))
        labels = block["labels"][:, None]  # [K, 1, n]
        right, wrong = (labels > 0) & block["valid"], (labels == 0) & block["valid"]
        self._odd[:, block["cells"]] = (bias.isnan() & right.any(-1) & wrong.any(-1)).long()
        return weight, bias

    def on_train_epoch_start(self) -> None:
        """Start without probes."""
        super().on_train_epoch_start()
        self._odd = self.weight.new_zeros(len(self.weight), len(self.own_cells), dtype=torch.int64)  # beyond float32

    def on_train_epoch_end(self) -> None:
        """Say what was fitted."""
        super().on_train_epoch_end()
        self.tell_beyond_float32((self.sum_over_ranks(self._odd) > 0).flatten())
        self.fitted = {"probe": "mass_mean", "whiten": self.whiten}
        if self.class_weight is not None:
            self.fitted["class_weight"] = self.class_weight
