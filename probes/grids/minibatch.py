"""Grids trained by gradient descent on mini-batches of examples, all cells at once; and linear probes of that kind.

For more examples than memory holds, and for probes that have no exact solution. Three things make it converge:

* *One objective.* A cell's loss is the objective of `fit_logistic` divided by its number of train rows, estimated
  without bias from each batch. The grid's loss is the sum over cells, so no cell's gradient depends on another.
* *Standardised inputs.* Columns of a residual stream differ in scale a thousandfold. Means and variances come from one
  pass over the train rows before the first step: they are then exact, and stay put under the optimizer's moments.
* *The best epoch.* The parameters kept are those of the epoch with the highest mean validation AUC. One choice for the
  whole grid: a choice for each cell follows the noise of its validation AUC.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from probes.analysis.best_epoch import BestEpoch
from probes.grids.grid import ProbeGrid
from probes.settings import ClassWeight, OnePenalty, check_minibatch
from probes.solver.inputs import has_odd_scale


class MinibatchGrid(ProbeGrid):
    """A grid that learns from blocks of all cells and a few examples, by any torch optimizer.

    Inputs are standardised: z = (x - mean) * scale, with scale = 1 / √(variance + 4 l2 / n). Loss and penalty of the
    linear probe then have a curvature of at most 1/4 along every column, also one that never varies. `tensors` folds
    mean and scale into the probes, which act on activations as they are. A cell that lacks a class has no probe.

    `fitted` numbers the best epoch from 0, as the progress bar does.

    Args:
        l2: penalty, for n train rows l2 / (2 n) times the squared weights that the child names; scikit-learn's C is
            1 / l2.
        optimizer: makes the optimizer from the parameters; elementwise ones leave the cells independent.
        scheduler: makes a learning rate schedule from the optimizer, stepped once an epoch; none by default.
        class_weight: `balanced`: the rows of both classes weigh the same in the loss, see `fit_logistic`. Mean and
            variance of the columns are those of all rows alike.
    """

    name: str
    # Of every target and cell, M = K * C of them, the cells varying fastest:
    intercept: nn.Parameter  # [M], of the logit
    mean: Tensor  # [M, D]
    scale: Tensor  # [M, D]
    emphasis: Tensor  # [M], train rows for each one that is valid; 0 where a class is missing, and with it the probe
    decay: Tensor  # [M], l2 / (2 n); 0 likewise
    class_weights: Tensor  # [2, M] of a row of label 0 and of label 1; only there where classes are weighed

    def __init__(
        self,
        l2: OnePenalty = 1.0,
        optimizer: Callable[..., Optimizer] = torch.optim.Adam,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        class_weight: ClassWeight = None,
    ) -> None:
        super().__init__()
        # Code does not belong in a checkpoint; loggers get the whole configuration.
        self.save_hyperparameters(ignore=["optimizer", "scheduler"], logger=False)
        check_minibatch(l2, class_weight=class_weight)
        self.l2, self.optimizer, self.scheduler, self.class_weight = l2, optimizer, scheduler, class_weight
        self._best: BestEpoch | None = None
        self._describe("linear by mini-batches")

    def _describe(self, kind: str) -> None:
        self.described = f"{kind}{', balanced classes' if self.class_weight else ''}, l2 = {self.l2:g}"

    @abstractmethod
    def logits(self, z: Tensor) -> Tensor:
        """Logits [M, B] of standardised activations [M, B, D]."""

    @abstractmethod
    def squared_weights(self) -> Tensor:
        """Sum of the squares of the weights that the penalty shrinks, [M]."""

    def make_parameters(self, K: int, L: int, T: int, D: int) -> None:
        """Make what both children share."""
        M = K * L * T
        self.intercept = nn.Parameter(torch.zeros(M))
        self.register_buffer("mean", torch.zeros(M, D))
        self.register_buffer("scale", torch.ones(M, D))
        self.register_buffer("emphasis", torch.zeros(M))
        self.register_buffer("decay", torch.zeros(M))
        if self.class_weight:
            self.register_buffer("class_weights", torch.zeros(2, M))

    def unstandardised(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Weight [M, .., D] and bias [M, ..] for activations as they are, from those for standardised ones."""
        weight = torch.einsum("m...d,md->m...d", weight, self.scale)
        return weight, bias - torch.einsum("m...d,md->m...", weight, self.mean)

    def on_grid(self, part: Tensor) -> Tensor:
        """[M, ..] as [K, L, T, ..], NaN in cells without a probe."""
        assert self.card is not None
        has_probe = (self.emphasis > 0).view(-1, *[1] * (part.ndim - 1))
        return part.where(has_probe, torch.nan).view(*self.card.shape[:3], *part.shape[1:])

    def configure_optimizers(self) -> Any:
        """Make the optimizer and, where wanted, its schedule."""
        optimizer = self.optimizer(self.parameters())
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.scheduler(optimizer)}

    @torch.no_grad()
    def on_train_start(self) -> None:
        """Read the train rows once, for mean and scale of every column and the log-odds of every cell to start from.

        Raises:
            ValueError: a block that does not hold all cells, or a valid row that is not finite.
        """
        if self.global_step:
            # Resumed with what follows. The order of batches comes from the number of passes, the first for the mean.
            cast(Any, self.trainer.train_dataloader).epoch = self.current_epoch + 1
            return
        self._best = None
        n_rows, n, n_positive, mean, variance = self._moments()
        spread = variance.sqrt()
        odd = has_odd_scale(mean - spread, mean + spread) | ~(mean + spread).isfinite().all(-1)
        fittable = (n_positive > 0) & (n_positive < n)
        self.tell_beyond_float32(odd & fittable)
        n, fittable = n.clamp(min=1), fittable & ~odd
        self.mean.copy_(mean)
        self.scale.copy_((variance + 4 * self.l2 / n[:, None]).rsqrt())
        self.emphasis.copy_((n_rows / n).where(fittable, 0))
        self.decay.copy_((self.l2 / (2 * n)).where(fittable, 0))
        if self.class_weight:
            self.class_weights.copy_(n / (2 * torch.stack((n - n_positive, n_positive)).clamp(min=1)))
            self.intercept.zero_()  # the log-odds of classes that weigh the same
        else:
            self.intercept.copy_((n_positive / (n - n_positive)).log().where(fittable, 0))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the best epoch so far beside the last one."""
        super().on_save_checkpoint(checkpoint)
        if self._best is not None:
            checkpoint["best"] = self._best.to_checkpoint()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make parameters of the checkpoint's shape, and take back its best epoch where a fit goes on."""
        super().on_load_checkpoint(checkpoint)
        assert self.card is not None
        best = checkpoint.get("best")
        self._best = None if best is None else BestEpoch.from_checkpoint(best, self.card)
        shapes = {name: part.shape for name, part in self.named_parameters()}
        if self._best and {name: part.shape for name, part in self._best.parameters.items()} != shapes:
            raise ValueError("ckpt_path: expected a best epoch with the probes of this run, got others; take another")

    def _moments(self) -> tuple[Tensor, ...]:
        """Of the train rows of all ranks, float64: all, valid and valid positive ones [M]; mean and variance [M, D]."""
        assert self.card is not None
        K, L, T, D = self.card.shape
        C = L * T
        n_rows, n, n_positive = counts = self.mean.new_zeros(3, K, C, dtype=torch.float64)
        total, squares = sums = self.mean.new_zeros(2, K, C, D, dtype=torch.float64)
        strategy = self.trainer.strategy
        for block in cast(Iterable[dict[str, Tensor]], self.trainer.train_dataloader):
            block = strategy.batch_to_device(block, self.device)
            labels, valid, cells = block["labels"], block["valid"], block["cells"]
            if not torch.equal(cells, torch.arange(C, device=cells.device)):
                raise ValueError(
                    f"probe: expected blocks of all {C} cells in order, got {len(cells)}; "
                    "set datamodule.batch_size to a number of examples"
                )
            for cell, acts in enumerate(block["acts"]):  # one at a time: only one is ever held in double precision
                for k in range(K):
                    rows = acts[valid[k, cell]].double()
                    total[k, cell] += rows.sum(0)
                    squares[k, cell] += rows.square().sum(0)
            if not total.isfinite().all():
                self.refuse_not_finite(block)
            n_rows += valid.shape[2]
            n += valid.sum(2)
            n_positive += (valid & (labels[:, None] == 1)).sum(2)
        n_rows, n, n_positive = cast(Tensor, strategy.reduce(counts, reduce_op="sum")).flatten(1)
        total, squares = cast(Tensor, strategy.reduce(sums, reduce_op="sum")).flatten(1, 2)
        rows = n.clamp(min=1)[:, None]
        mean = total / rows
        return n_rows, n, n_positive, mean, (squares / rows - mean.square()).clamp(min=0)

    def training_step(self, block: dict[str, Tensor]) -> Tensor:
        """Sum over cells of the objective, estimated from a block of B examples.

        A cell's loss is summed over its valid rows and divided by as many as B rows hold on average. The expectation is
        then the objective's value however many are valid here, and stays so when gradients are averaged over ranks.
        """
        acts, valid = block["acts"], block["valid"].flatten(0, 1)
        K, C = len(block["labels"]), len(acts)
        labels = block["labels"].repeat_interleave(C, 0)  # [M, B]
        z = acts.to(self.mean.dtype, copy=True) if K == 1 else acts.to(self.mean.dtype).repeat(K, 1, 1)
        z = z.sub_(self.mean[:, None]).mul_(self.scale[:, None])
        logits = self.logits(z)
        losses = softplus(torch.where(labels == 1, -logits, logits)) * valid
        if self.class_weight:
            losses = losses * torch.where(labels == 1, *self.class_weights.flip(0)[..., None])
        objective = self.emphasis * losses.mean(1) + self.decay * self.squared_weights()
        loss = objective.sum()
        a_cell = loss.detach() / (self.emphasis > 0).sum()
        self.log("train/loss", a_cell, on_step=False, on_epoch=True, sync_dist=True, batch_size=acts.shape[1])
        return loss

    def on_validation_epoch_end(self) -> None:
        """Gather the validation map, and keep the parameters where it is the best so far."""
        super().on_validation_epoch_end()
        if self.trainer.state.fn != TrainerFn.FITTING or self.trainer.sanity_checking:
            return
        val = self.maps["val"]
        readable = torch.cat([one.auc[one.readable()] for one in val])
        mean_auc = float(readable.mean())  # NaN without a readable cell: better than nothing
        self.improved = self._best is None or math.isnan(self._best.mean_auc) or mean_auc > self._best.mean_auc
        if self.improved:
            parameters = {name: parameter.detach().clone() for name, parameter in self.named_parameters()}
            self._best = BestEpoch(mean_auc, self.current_epoch, val, parameters)

    @torch.no_grad()
    def on_train_end(self) -> None:
        """Go back to the best epoch, parameters and validation map; without validation, stay at the last."""
        settings = {name: value for name, value in self.hparams.items() if value is not None}
        self.fitted = {"probe": self.name, **settings, "epochs": self.current_epoch}
        if self._best is not None:
            for name, parameter in self.named_parameters():
                parameter.copy_(self._best.parameters[name])
            self.maps["val"] = self._best.val
            self.fitted["best_epoch"] = self._best.epoch
            self._best = None
        else:
            self.print(f"nothing was validated: all {self.current_epoch} epochs are run, and the last one is kept")


class LinearGrid(MinibatchGrid):
    """Linear probes whose optimum is that of `LogisticGrid`: the penalty acts on the weights of unscaled activations.

    Args:
        l2, optimizer, scheduler, class_weight: see `MinibatchGrid`.
    """

    name = "minibatch"

    def make_parameters(self, K: int, L: int, T: int, D: int) -> None:
        """Start from zero; the problem is convex."""
        super().make_parameters(K, L, T, D)
        self.slope = nn.Parameter(torch.zeros(K * L * T, D))

    def logits(self, z: Tensor) -> Tensor:
        """z·slope + intercept."""
        return torch.baddbmm(self.intercept[:, None, None], z, self.slope[..., None])[..., 0]

    def squared_weights(self) -> Tensor:
        """|w|² of the weights of `tensors`."""
        return (self.slope * self.scale).square().sum(1)

    def tensors(self) -> dict[str, Tensor]:
        """Weight [K, L, T, D] and bias [K, L, T]."""
        weight, bias = self.unstandardised(self.slope, self.intercept)
        return {"weight": self.on_grid(weight), "bias": self.on_grid(bias)}
