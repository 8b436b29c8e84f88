"""The probe of one cell, which scores activations."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probes.solver.precision import full_precision


@dataclass(frozen=True, eq=False)
class CellProbe:
    """The probe of one cell.

    Attributes:
        layer: block number, 0-based.
        position: its name.
        target: name of the label set.
        weight: [D] float32, acts on activations as they are.
        bias: added to the score.

    Example:
        >>> probe = CellProbe(4, "last", "correctness", torch.tensor([1.0, -1.0]), 0.5)
        >>> probe.score(torch.tensor([[2.0, 1.0], [0.0, 3.0]]))
        tensor([ 1.5000, -2.5000])
        >>> probe
        CellProbe: layer 4, last, correctness, width 2
    """

    layer: int
    position: str
    target: str
    weight: Tensor
    bias: float

    def __repr__(self) -> str:
        return f"CellProbe: layer {self.layer}, {self.position}, {self.target}, width {len(self.weight)}"

    @full_precision()
    def score(self, acts: Any) -> Tensor:
        """Score activations [.., D], tensor or array: [..] float32, computed in float64; above 0 speaks for label 1.

        Raises:
            ValueError: activations of another width.
        """
        acts = torch.as_tensor(acts)
        if acts.ndim == 0 or acts.shape[-1] != len(self.weight):
            raise ValueError(
                f"acts: expected activations [.., {len(self.weight)}], got {list(acts.shape)}; take the layer and "
                "site that the probe was fitted on"
            )
        return (acts.double() @ self.weight.to(acts.device).double() + self.bias).float()
