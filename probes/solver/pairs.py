"""What L-BFGS remembers of many problems, in a form that takes a few batched products a step.

The inverse Hessian that the last M steps S and changes of the gradient Y stand for, around a rough inverse H, is
written out (Byrd, Nocedal & Schnabel 1994, Mathematical Programming 63, theorem 2.2) where one problem alone would
apply the pairs one by one:

    H + [S HY] [[R⁻ᵀ (1 + YᵀHY) R⁻¹, -R⁻ᵀ], [-R⁻¹, 0]] [S HY]ᵀ

with R the upper triangle of SᵀY, oldest pair first. Pairs are scaled so that sᵀy = 1.
"""

import torch
from torch import Tensor

from probes.solver.inverses import Diagonal, Factored

PAIRS, NUMBERS = 24, 2**16  # most steps that are remembered, and about how many numbers of each kind they may have
TENSORS = "SY", "R", "YHY", "gamma"


def bytes_of_pairs(m: int) -> int:
    """Bytes of what is remembered of one problem with m columns, and of as much again while it is measured or moved."""
    return 4 * 4 * slots(m) * (m + 1)


def slots(m: int) -> int:
    """How many steps of m + 1 numbers are remembered."""
    return min(PAIRS, max(8, NUMBERS // m))


class Pairs:
    """The last steps of k problems in each of c cells; vectors have m + 1 numbers, the last of the intercept.

    Attributes:
        SY: steps, and what they changed the gradient by, [c, k, 2, M, m + 1] float32, zero where there is none.
        at: the slot that the next pair takes, which holds the oldest.
        R: products sᵀy, [c, k, M, M] float64 with the oldest pair first; only the upper triangle is read.
        YHY: products yᵀHy, [c, k, M, M] float64, in the same order.
        gamma: 1 / yᵀHy of the newest pair, by which H is off, [c, k, 1] float64; 1 where there is none.
    """

    def __init__(self, c: int, k: int, m: int, device: torch.device) -> None:
        """Remember nothing."""
        self.M, self.at = slots(m), 0
        self.SY = torch.zeros(c, k, 2, self.M, m + 1, device=device)
        self.R = torch.eye(self.M, dtype=torch.float64, device=device).repeat(c, k, 1, 1)
        self.YHY = torch.zeros_like(self.R)
        self.gamma = self.R.new_ones(c, k, 1)

    def direction(self, g: Tensor, H: Diagonal | Factored, plain: Tensor) -> Tensor:
        """Minus the inverse Hessian times g [c, k, m + 1] float32; the newest pair tells how far H is off.

        Where `plain` [c, k] it is minus H times g: what is remembered has misled.
        """
        Hg = H(g)
        a, b = self._products(g, Hg)
        v = torch.linalg.solve_triangular(self.R, a[..., None], upper=True)
        e = v + self.gamma[..., None] * (self.YHY @ v - b[..., None])
        e = torch.linalg.solve_triangular(self.R.mT, e, upper=False)
        ev = torch.stack((e, v), 2).roll(self.at, -2).float()
        of_steps, of_changes = (ev.mT @ self.SY)[..., 0, :].unbind(2)
        return -torch.where(plain[..., None], Hg, self.gamma.float() * H(g - of_changes) + of_steps)

    def add(self, step: Tensor, change: Tensor, H: Diagonal | Factored) -> None:
        """Remember steps and what they changed the gradient by, [c, k, m + 1] float64, where these show curvature."""
        scale = (step * change).sum(-1, keepdim=True).rsqrt()  # NaN where the product is negative
        tells = (scale > 0) & (scale < torch.inf)
        # Where there is nothing to remember the oldest pair takes the newest's place: it stays as true as it was.
        new = (scale[..., None] * torch.stack((step, change), 2)).float()
        new = torch.where(tells[..., None], new, self.SY[..., self.at, :])
        self.SY[..., self.at, :] = new
        self.at = (self.at + 1) % self.M
        sy, yhy = self._products(new[:, :, 1], H(new[:, :, 1]))
        self.R, self.YHY = self.R.roll((-1, -1), (-2, -1)), self.YHY.roll((-1, -1), (-2, -1))
        self.R[..., -1] = sy
        self.R[..., -1, -1] = 1  # of an empty slot, too
        self.YHY[..., -1], self.YHY[..., -1, :] = yhy, yhy
        self.gamma = torch.where(tells & (yhy[..., -1:] > 0), 1 / yhy[..., -1:], self.gamma)

    def forget(self) -> None:
        """Hold no pair."""
        self.SY.zero_()
        self.R = torch.eye(self.M, dtype=self.R.dtype, device=self.R.device).expand_as(self.R).clone()
        self.YHY, self.gamma = torch.zeros_like(self.YHY), torch.ones_like(self.gamma)

    def renew(self, H: Diagonal) -> None:
        """Measure the pairs by another rough inverse."""
        Y = self.SY[:, :, 1].roll(-self.at, -2)
        self.YHY = (H(Y) @ Y.mT).double()

    def take(self, cells: Tensor, sets: Tensor) -> "Pairs":
        """Those of some problems: of cell cells[i] the label sets sets[i], [c'] and [c', k'] int64."""
        taken = object.__new__(Pairs)
        taken.M, taken.at = self.M, self.at
        for name in TENSORS:
            setattr(taken, name, getattr(self, name)[cells[:, None], sets])
        return taken

    def put(self, cells: Tensor, sets: Tensor, part: "Pairs") -> None:
        """Let those of some problems be `part`."""
        for name in TENSORS:
            of_part = getattr(part, name)
            if name == "SY":  # slots follow the part's own count
                of_part = of_part.roll(self.at - part.at, -2)
            getattr(self, name)[cells[:, None], sets] = of_part

    def _products(self, x: Tensor, Hx: Tensor) -> tuple[Tensor, Tensor]:
        """Products of every step with x, and of every change with Hx: [c, k, M] float64 each, oldest pair first."""
        both = (self.SY @ torch.stack((x, Hx), 2)[..., None])[..., 0].double().roll(-self.at, -1)
        return both[:, :, 0], both[:, :, 1]
