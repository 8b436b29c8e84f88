"""The probe of one cell as scikit-learn's estimators are: for cross-validation, grid search and pipelines."""

from numbers import Real
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

from probes.solver.logistic import REASONS, fit_logistic
from probes.solver.penalty import list_penalties

FLOATS = [np.float64, np.float32, np.float16]


class LinearProbe(ClassifierMixin, BaseEstimator):
    """L2 logistic regression of one cell by `fit_logistic`, as an estimator of two classes.

    Its numbers are those of the same cell of a grid that is fitted on the same rows. Activations may be a tensor, on
    the CPU also in bfloat16, or an array; they are fitted in the dtype they have.

    Args:
        l2: penalty; scikit-learn's C is 1 / l2. `by_size`: a rule in the width and the number of rows, see
            `list_penalties`.
        standardize: penalise weights as if every column had unit variance over the rows.
        tol: gradient norm at which the fit has converged.
        max_iter: most steps.
        class_weight: None, or `balanced`, under which both classes count the same; see `fit_logistic`.

    Attributes:
        classes_: [2], the labels; scores above 0 speak for the second.
        coef_: [1, D], acts on activations as they are.
        intercept_: [1].
        n_iter_: [1] steps.
        l2_: the penalty that was taken.
        n_features_in_: D.

    Example:
        >>> from sklearn.model_selection import cross_val_score
        >>> X = np.random.default_rng(0).normal(size=(200, 8))
        >>> y = np.where(X[:, 0] > 0, "right", "wrong")
        >>> bool(cross_val_score(LinearProbe(l2=1.0), X, y, scoring="roc_auc").mean() > 0.95)
        True
    """

    def __init__(
        self,
        l2: float | str = "by_size",
        standardize: bool = True,
        tol: float = 1e-4,
        max_iter: int = 1000,
        class_weight: Literal["balanced"] | None = None,
    ) -> None:
        self.l2, self.standardize, self.tol, self.max_iter = l2, standardize, tol, max_iter
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any) -> "LinearProbe":
        """Fit activations X [N, D] to labels y [N] of two classes, numbers or texts.

        Raises:
            ValueError: shapes that do not fit, NaN or infinity, another number of classes, or settings out of range.
        """
        if isinstance(y, torch.Tensor):
            y = y.detach().cpu().numpy()
        acts = _take_tensor(X)
        if acts is None:
            X, y = validate_data(self, X, y, dtype=FLOATS)
            acts = _share_memory(X)
        else:
            y = column_or_1d(y)
            self.n_features_in_ = acts.shape[1]
            if y.shape != (len(acts),):
                raise ValueError(f"y: expected [{len(acts)}] labels beside X {list(acts.shape)}, got {list(y.shape)}")
        check_classification_targets(y)
        if (kind := type_of_target(y)) != "binary":
            raise ValueError(
                f"Only binary classification is supported. The type of the target is {kind}; take OneVsRestClassifier "
                "around it"
            )
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y: expected labels of two classes, got one class, {self.classes_[0]}; add the other")
        if not isinstance(self.l2, Real) and not (isinstance(self.l2, str) and self.l2 == "by_size"):
            raise ValueError(
                f"l2: expected a number above 0, or by_size, got {self.l2!r}; search others with GridSearchCV"
            )
        (self.l2_,) = list_penalties(self.l2, acts.shape[1], len(acts))
        fit = fit_logistic(
            acts[None],
            torch.from_numpy(codes)[None],
            l2=self.l2_,
            tol=self.tol,
            max_iter=self.max_iter,
            standardize=self.standardize,
            class_weight=self.class_weight,
        )
        reason = REASONS[int(fit.reason)]
        self.coef_, self.intercept_ = fit.weight.cpu().numpy(), fit.bias.cpu().numpy()
        self.n_iter_ = fit.iterations.cpu().numpy()
        if reason == "constant features":  # no probe in a grid; here the share of the classes is all there is to say
            self.coef_ = np.zeros_like(self.coef_)
            odds = 1.0 if self.class_weight == "balanced" else codes.sum() / (codes == 0).sum()
            self.intercept_ = np.full_like(self.intercept_, np.log(odds))
        elif not np.isfinite(self.coef_).all():
            raise ValueError(
                f"X: expected activations that a probe can be fitted to, got others ({reason}); scale them"
            )
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Scores [N] of activations X [N, D] in float64: the log-odds of the second class.

        Raises:
            ValueError: another width than in `fit`, NaN or infinity.
        """
        check_is_fitted(self)
        acts = _take_tensor(X)
        if acts is None:
            acts = _share_memory(validate_data(self, X, dtype=FLOATS, reset=False))
        elif acts.shape[1] != self.n_features_in_:
            raise ValueError(f"X: expected [N, {self.n_features_in_}] as in fit, got {list(acts.shape)}")
        elif not acts.isfinite().all():
            raise ValueError("X: expected finite activations, got NaN or infinity; leave these rows out")
        weight = torch.from_numpy(self.coef_[0]).double().to(acts.device)
        return (acts.double() @ weight + float(self.intercept_[0])).cpu().numpy()

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities [N, 2] of the two classes, as the regression gives them: they are not calibrated."""
        odds = torch.from_numpy(self.decision_function(X))
        return torch.stack([torch.sigmoid(-odds), torch.sigmoid(odds)], 1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """The likelier class [N] of each row."""
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(int)]

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn knows of it: two classes only."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


def _take_tensor(X: Any) -> torch.Tensor | None:
    """Activations [N, D] of a tensor, whose dtypes and devices numpy may not have; None for anything else."""
    if not isinstance(X, torch.Tensor):
        return None
    if X.ndim != 2 or not X.is_floating_point() or 0 in X.shape:
        raise ValueError(f"X: expected activations [N, D] in floats, got {X.dtype} {list(X.shape)}; choose one cell")
    return X.detach()


def _share_memory(X: Any) -> torch.Tensor:
    if not X.flags.writeable or any(stride < 0 for stride in X.strides) or not X.dtype.isnative:
        X = X.astype(X.dtype.newbyteorder("="))
    return torch.from_numpy(X)
