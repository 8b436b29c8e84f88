"""Inputs of a fit: activations, labels and valid rows of a block of cells."""

import torch
from torch import Tensor


def align(
    acts: Tensor, labels: Tensor, valid: Tensor | None, sets_allowed: bool, offset: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None, bool]:
    """Check what every fit of a block of cells is given, and bring it to one shape.

    Args:
        acts: [C, N, D], any floating dtype.
        labels: 0 or 1 where valid, any dtype; broadcasts to [C, N], or is [K, 1, N] or [K, C, N] for K label sets.
        valid: bool, shaped like labels; all rows where None.
        sets_allowed: whether there may be label sets.
        offset: floating, shaped like labels, or None.

    Returns:
        labels and valid as bool, offset as float64 or None, [K, C, N] each on the device of acts; and whether the
        caller gave label sets.

    Raises:
        ValueError: what is no tensor, shapes that do not fit, labels other than 0 and 1, valid that is not bool, an
            offset that is not finite in a valid row.
    """
    for name, given in (("acts", acts), ("labels", labels), ("valid", valid), ("offset", offset)):
        if given is None and name in ("valid", "offset"):
            continue
        if not isinstance(given, Tensor):
            raise ValueError(f"{name} must be a torch.Tensor, got {type(given).__name__}; torch.as_tensor makes one")
    if acts.ndim != 3 or not acts.is_floating_point():
        raise ValueError(f"acts must be floating [C, N, D], got {acts.dtype} {list(acts.shape)}")
    C, N, D = acts.shape
    if acts.numel() == 0:
        raise ValueError(f"acts must hold at least one cell, example and dimension, got C={C}, N={N}, D={D}")
    if valid is None:
        valid = acts.new_ones(N, dtype=torch.bool)
    if valid.dtype != torch.bool:
        raise ValueError(f"valid must be bool, got {valid.dtype}; compare it first, as in valid != 0")
    given = [tensor for tensor in (labels, valid, offset) if tensor is not None]
    has_sets = any(tensor.ndim == 3 for tensor in given)
    K = max(len(tensor) if tensor.ndim == 3 else 1 for tensor in given)
    labels = _expanded("labels", labels.to(acts.device), (K, C, N), sets_allowed)
    valid = _expanded("valid", valid.to(acts.device), (K, C, N), sets_allowed)
    wrong = labels[valid & (labels != 0) & (labels != 1)]
    if wrong.numel():
        raise ValueError(f"labels must be 0 or 1 where valid, got {wrong[0].item()}")
    if offset is not None:
        offset = _expanded("offset", offset.to(acts.device, torch.float64), (K, C, N), sets_allowed)
        if not (offset.isfinite() | ~valid).all():
            raise ValueError("offset must be finite in valid rows, got NaN or infinity; mark the row invalid")
    return labels == 1, valid, offset, has_sets


def require_class_weight(class_weight: object) -> None:
    """Raise ValueError where `class_weight` is neither None nor "balanced"."""
    if class_weight not in (None, "balanced"):
        raise ValueError(f'class_weight must be None or "balanced", got {class_weight!r}')


SMALLEST, LARGEST = 1e-18, 1e18  # of what activations may differ by: beyond, weights or scores leave float32


def has_odd_scale(least: Tensor, most: Tensor) -> Tensor:
    """Whether activations are so large, or differ by so little, that no probe and score in float32 can hold them.

    Args:
        least: [..., D], smallest activation of each column, of any floating dtype.
        most: largest ones.

    Returns:
        bool [...]; false where a column is NaN, and where all columns are constant.
    """
    least, most = least.double(), most.double()
    spread = (most - least).amax(-1)
    largest = torch.maximum(most.abs(), least.abs()).amax(-1)
    return ((spread > 0) & (spread < SMALLEST)) | (largest > LARGEST)


class NotFiniteError(ValueError):
    """NaN or infinity in a valid row of the activations, which stands at `place`."""

    def __init__(self, place: str) -> None:
        super().__init__(
            f"acts must be finite in valid rows, got NaN or infinity {place}; mark the row invalid, or capture it in a "
            "dtype with more range"
        )


def _expanded(name: str, tensor: Tensor, shape: tuple[int, int, int], sets_allowed: bool) -> Tensor:
    K, C, N = shape
    try:
        if tensor.ndim > 2 and not sets_allowed:
            raise RuntimeError
        return tensor.expand(shape)
    except RuntimeError:
        sets = f", or be [K, 1, N] or [K, C, N] for K label sets, here K={K};" if sets_allowed else ","
        raise ValueError(f"{name} must broadcast to [C, N] = [{C}, {N}]{sets} got {list(tensor.shape)}") from None
