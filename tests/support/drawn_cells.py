"""Cells drawn by hypothesis, and what a fit of them is held against: the objective and its optimum in float64."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LARGEST = {torch.float16: 6e4}  # what a dtype holds, where it is little


@dataclass(frozen=True)
class Drawn:
    """One cell and how to fit it: acts [1, N, D], labels, valid and offset [K, 1, N]."""

    acts: Tensor
    labels: Tensor
    valid: Tensor
    offset: Tensor | None
    l2: tuple[float, ...]
    standardize: bool
    class_weight: str | None

    @property
    def settings(self) -> dict[str, Any]:
        """Keyword arguments of `fit_logistic`, but for the penalties."""
        return {
            "valid": self.valid,
            "standardize": self.standardize,
            "offset": self.offset,
            "class_weight": self.class_weight,
        }


def make_cell(
    seed: int, N: int, D: int, K: int, dtype: torch.dtype, scale: float, spread: float, shift: float, large: int,
    sink: bool, noise: float, share: float, repeated: bool, with_offset: bool, l2: tuple[float, ...],
    standardize: bool, class_weight: str | None,
) -> Drawn:  # fmt: skip
    """Make a cell of a seed: columns of size 10^scale, 10^±spread apart, around ±shift; `large` ones 1,000-fold."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(N, D))
    margin = X @ random.normal(size=(D, K)) / D**0.5 + noise * random.normal(size=(N, K))
    X = X * 10 ** (scale + spread * random.uniform(-1, 1, D))
    X[:, random.permutation(D)[:large]] *= 1000
    X += shift * random.uniform(-1, 1, D)
    if sink:
        X[random.integers(N)] *= 1000
    labels = (margin > np.quantile(margin, random.uniform(0.1, 0.9))).astype(np.int64)
    if repeated:
        again = random.integers(N, size=N // 2)
        X[: N // 2], labels[: N // 2] = X[again], labels[again]
    valid = random.random((K, 1, N)) < share
    X = np.clip(X, -(most := LARGEST.get(dtype, np.inf)), most)
    offset = torch.from_numpy(random.normal(size=(K, 1, N))) if with_offset else None
    acts = torch.from_numpy(X).to(dtype)[None]
    labels, valid = torch.from_numpy(labels.T.copy())[:, None], torch.from_numpy(valid)
    return Drawn(acts, labels, valid, offset, l2, standardize, class_weight)


def cells(**fixed) -> st.SearchStrategy[Drawn]:
    """Draw cells; what is given is fixed, or drawn from the strategy given."""
    drawn = {
        "seed": st.integers(0, 2**20),
        "N": st.integers(2, 200),
        "D": st.integers(1, 80),
        "K": st.integers(1, 7),
        "dtype": st.sampled_from(DTYPES),
        "scale": st.sampled_from([0.0, -3.0, -1.0, 1.0, 3.0]),
        "spread": st.sampled_from([0.0, 1.0]),
        "shift": st.sampled_from([0.0, 1.0, 100.0, 10_000.0]),
        "large": st.sampled_from([0, 0, 3]),
        "sink": st.booleans(),
        "noise": st.sampled_from([1.0, 0.0, 10.0]),  # without it classes are separable
        "share": st.sampled_from([1.0, 0.8, 0.1]),
        "repeated": st.booleans(),
        "with_offset": st.booleans(),
        "standardize": st.booleans(),
        "class_weight": st.sampled_from([None, "balanced"]),
        "l2": st.lists(st.floats(-3, 4).map(lambda x: round(10**x, 6)), min_size=1, max_size=3).map(tuple),
    }
    given = {name: one if isinstance(one, st.SearchStrategy) else st.just(one) for name, one in fixed.items()}
    return st.builds(make_cell, **(drawn | given))


class Objective:
    """The objective of one label set and penalty of a cell in float64, of columns as they are penalised."""

    def __init__(self, cell: Drawn, k: int, l2: float) -> None:
        """Keep the rows that count; `scale` [D] is what penalised columns were divided by, 0 for a constant one."""
        counted = cell.valid.any(0)[0].numpy()
        X = cell.acts[0].double().numpy()
        self.scale = X[counted].std(0) if cell.standardize else np.ones(X.shape[1])
        self.scale[np.ptp(X[counted], 0) == 0] = 0
        used = cell.valid[k, 0].numpy()
        self.X, y, self.l2 = X[used], cell.labels[k, 0].numpy()[used], l2
        self.sign = 2.0 * y - 1
        self.c = np.ones(len(y))
        if cell.class_weight == "balanced":
            self.c = len(y) / 2 / np.where(y == 1, (y == 1).sum(), (y == 0).sum())
        self.offset = np.zeros(len(y)) if cell.offset is None else cell.offset[k, 0].numpy()[used]
        self.mean = self.X.mean(0)

    def log_odds(self) -> float:
        """Where a descent starts: of the weights of both classes, 0 with offsets."""
        odds = self.c[self.sign > 0].sum() / self.c[self.sign < 0].sum()
        return float(np.log(odds)) if not self.offset.any() else 0.0

    def at(self, w: NDArray, b: float) -> float:
        """Its value in nats."""
        z = (self.X - self.mean) @ w + (b + self.mean @ w) + self.offset
        return float(self.c @ np.logaddexp(0, -self.sign * z) + self.l2 / 2 * ((w * self.scale) ** 2).sum())

    def gradient(self, w: NDArray, b: float) -> NDArray:
        """By (weights of penalised columns, intercept), [D + 1]."""
        r = self.residual((self.X - self.mean) @ w + (b + self.mean @ w) + self.offset)
        by_weight = (r @ (self.X - self.mean) + self.mean * r.sum()) / np.where(self.scale > 0, self.scale, np.inf)
        return np.append(by_weight + self.l2 * w * self.scale, r.sum())

    def residual(self, z: NDArray) -> NDArray:
        """Of logits [n]."""
        return -self.sign * self.c * np.exp(-np.logaddexp(0, self.sign * z))

    def rounding(self, w: NDArray, b: float, eps: float) -> tuple[float, float]:
        """Most that the objective, and the norm of its gradient, change where w and b are rounded to eps of them."""
        eps = max(eps, 10 * np.finfo(np.float64).eps)  # of sums
        size = np.abs(self.X)
        dz = eps * (size @ np.abs(w) + abs(b))
        dg = size.T @ (self.c / 4 * dz) / np.where(self.scale > 0, self.scale, np.inf)
        dg = dg + eps * self.l2 * np.abs(w * self.scale)
        first_order = eps * np.abs(self.gradient(w, b)) @ np.append(np.abs(w) * self.scale, abs(b))
        value = self.c @ dz**2 / 8 + self.l2 / 2 * ((eps * w * self.scale) ** 2).sum() + first_order
        start = np.linalg.norm(self.gradient(0 * w, self.log_odds()))  # whose sums are rounded likewise
        return float(value), float(np.hypot(np.linalg.norm(dg), self.c / 4 @ dz) + eps * (start + self.c.sum()))

    def optimum(self) -> tuple[float, float]:
        """Its least value, by Newton steps that are least-squares problems; and about how much lower it may be."""
        D, n = self.X.shape[1], len(self.X)
        inverse = np.where(self.scale > 0, 1 / np.where(self.scale > 0, self.scale, 1), 0) / np.sqrt(self.l2)
        A = np.column_stack(((self.X - self.mean) * inverse, np.ones(n)))  # of weights whose penalty is 1/2 v²
        size = np.linalg.norm(A, axis=0)
        size[size == 0] = 1
        penalty = np.diag(np.append(np.ones(D), 0.0)) / size
        v, ridge = np.zeros(D + 1), np.append(np.ones(D), 0.0)

        def value(v: NDArray) -> float:
            return float(self.c @ np.logaddexp(0, -self.sign * (A @ v + self.offset)) + (ridge * v**2).sum() / 2)

        def slope(v: NDArray, d: NDArray) -> float:
            return float(self.residual(A @ v + self.offset) @ (A @ d) + (ridge * v) @ d)

        gain = np.inf
        for _ in range(300):
            r = self.residual(A @ v + self.offset)
            bend = np.maximum(np.abs(r) * (1 - np.abs(r) / self.c), 1e-200)
            system = np.vstack((np.sqrt(bend)[:, None] * A / size, penalty))
            target = np.append(-r / np.sqrt(bend), -(ridge * v))
            Q, R = np.linalg.qr(system)
            singular = np.abs(np.diag(R)).min() < 1e-14 * np.abs(np.diag(R)).max()  # where every row is saturated
            d = (np.linalg.lstsq(R, Q.T @ target)[0] if singular else np.linalg.solve(R, Q.T @ target)) / size
            first = slope(v, d)
            gain = abs(first) / 2
            if not first < 0 or gain <= 1e-14 * value(v):
                break
            t = 1.0
            while slope(v + t * d, d) > -0.5 * first and t > 1e-10:
                t /= 2
            v = v + t * d
        return value(v), gain
