"""Probes with one hidden layer, trained by mini-batches."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from probes.grids.minibatch import MinibatchGrid
from probes.settings import ClassWeight, Count, OnePenalty, check_minibatch


class MLPGrid(MinibatchGrid):
    """Probes with one hidden layer: w2·gelu(W1 z + b1) + b2.

    Args:
        hidden: width H of the hidden layer.
        l2, optimizer, scheduler, class_weight: see `MinibatchGrid`; the penalty acts on W1 and w2, for standardised
            activations.
    """

    name = "mlp"

    def __init__(
        self,
        hidden: Count = 64,
        l2: OnePenalty = 1.0,
        optimizer: Callable[..., Optimizer] = torch.optim.Adam,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        class_weight: ClassWeight = None,
    ) -> None:
        super().__init__(l2, optimizer, scheduler, class_weight)
        check_minibatch(l2, hidden, class_weight)
        self.hidden = hidden
        self._describe(f"mlp, {hidden} hidden")

    def make_parameters(self, K: int, L: int, T: int, D: int) -> None:
        """Start at random, so that hidden units differ, with sums of variance about one in both layers."""
        super().make_parameters(K, L, T, D)
        M, H = K * L * T, self.hidden
        self.weight_in = nn.Parameter(torch.randn(M, H, D) / D**0.5)
        self.bias_in = nn.Parameter(torch.zeros(M, H))
        self.weight_out = nn.Parameter(torch.randn(M, H) / H**0.5)

    def logits(self, z: Tensor) -> Tensor:
        """w2·gelu(W1 z + b1) + b2, with b2 the intercept."""
        hidden = gelu(torch.baddbmm(self.bias_in[:, None], z, self.weight_in.mT))
        return torch.baddbmm(self.intercept[:, None, None], hidden, self.weight_out[..., None])[..., 0]

    def squared_weights(self) -> Tensor:
        """|W1|² + |w2|²."""
        return self.weight_in.square().sum((1, 2)) + self.weight_out.square().sum(1)

    def tensors(self) -> dict[str, Tensor]:
        """weight_in [K, L, T, H, D], bias_in [K, L, T, H], weight_out [K, L, T, H] and bias_out [K, L, T]."""
        weight_in, bias_in = self.unstandardised(self.weight_in, self.bias_in)
        parts = {"weight_in": weight_in, "bias_in": bias_in, "weight_out": self.weight_out, "bias_out": self.intercept}
        return {name: self.on_grid(part) for name, part in parts.items()}

    @staticmethod
    def score(acts: Tensor, weight_in: Tensor, bias_in: Tensor, weight_out: Tensor, bias_out: Tensor) -> Tensor:
        """Scores [K, N] of activations [N, D] by one cell's probes, whose tensors are those of `tensors` at [L, T]."""
        hidden = gelu(acts @ weight_in.mT + bias_in[:, None])  # [K, N, H]
        return (hidden @ weight_out[..., None])[..., 0] + bias_out[:, None]
