"""AUC maps made by hand."""

import torch

from probes.analysis.auc_map import AUCMap

PAPER = (
    "last_q", "first_answer", "second_answer", "exact_answer_before_first", "exact_answer_first", "exact_answer_last",
    "exact_answer_after_last", "-8", "-7", "-6", "-5", "-4", "-3", "-2", "-1",
)  # fmt: skip


def a_map(L=8, T=15, split="test", seed=0, low=0.5) -> AUCMap:
    generator = torch.Generator().manual_seed(seed)
    auc = low + (1 - low) * torch.rand(L, T, generator=generator, dtype=torch.float64)
    n = torch.full((L, T), 200)
    names = (PAPER + tuple(f"position_{column}" for column in range(T)))[:T]
    return AUCMap("correctness", split, tuple(range(L)), names, auc, auc * 0.05, n, n // 2)


def unreadable(auc_map: AUCMap, *cells) -> AUCMap:
    for cell in cells:
        auc_map.n_positive[cell] = 9
    return auc_map


def map_of(auc, readable=None, layers=None, positions=None, se=0.03) -> AUCMap:
    """A map with given AUC [L, T] of 100 examples each, 10 of which are right in cells that are not readable."""
    auc = torch.as_tensor(auc, dtype=torch.float64)
    L, T = auc.shape
    readable = torch.ones(L, T, dtype=torch.bool) if readable is None else readable
    return AUCMap(
        target="correctness",
        split="test",
        layers=layers or tuple(range(L)),
        positions=positions or tuple(f"p{column}" for column in range(T)),
        auc=auc,
        auc_se=torch.full((L, T), se, dtype=torch.float64),
        n=torch.full((L, T), 100),
        n_positive=torch.where(readable, 50, 5),
    )
