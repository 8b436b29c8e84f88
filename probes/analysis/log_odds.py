"""Fitted baselines: log-odds of a right answer from texts, from what was said, and from cheap numbers.

Each is fitted on train rows. Train rows themselves get log-odds from fits to other groups, so that these are as good as
those of unseen rows and can serve as an offset. scikit-learn is loaded where it is used.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

FOLDS = 5  # of the train rows
WORD = r"(?u)\b\w+\b"  # of TF-IDF; scikit-learn's own pattern leaves out single digits and letters
PRIOR = 2.0  # examples at the base rate beside those of an answer; of .5 to 10 the least log-loss on cities
STEPS = 1_000  # most steps of a fit; 20 to 60 suffice
Fit = Callable[[NDArray], NDArray]


def cross_fit(fit: Fit, train: NDArray, labels: NDArray, groups: NDArray) -> NDArray:
    """Log-odds of N examples, those of the train rows by fits to the other folds of the train rows.

    Args:
        fit: takes the rows to fit on, bool [N], and returns log-odds of all rows, [N].
        train: bool [N].
        labels: [N] in {0, 1}.
        groups: [N] integers; a group is in one fold.

    Returns:
        float64 [N]; NaN in a fold whose other folds lack a class.

    Example:
        >>> labels = np.array([0, 1, 0, 1, 1])
        >>> train = np.array([True, True, True, True, False])
        >>> cross_fit(lambda rows: np.full(5, float(rows.sum())), train, labels, np.arange(5)).tolist()
        [3.0, 3.0, 3.0, 3.0, 4.0]
    """
    names, numbers = np.unique(groups[train], return_inverse=True)
    folds = np.full(len(train), -1)
    folds[train] = (np.random.default_rng(0).permutation(len(names)) % FOLDS)[numbers]
    # Threads of BLAS wait in busy loops between the short steps of a fit: two take four times as long as one.
    with threadpool_limits(1, "blas"):
        log_odds = np.array(fit(train), np.float64)
        for fold in np.unique(folds[train]):
            here = folds == fold
            rest = train & ~here
            log_odds[here] = fit(rest)[here] if has_both(labels[rest]) else np.nan
    return log_odds


def has_both(labels: NDArray) -> bool:
    """Whether both classes occur."""
    return len(np.unique(labels)) == 2


def fit_words(texts: Sequence[Sequence[str]], labels: NDArray) -> Fit:
    """Logistic regression on TF-IDF of words (scikit-learn's, C = 1), for `cross_fit`.

    Args:
        texts: one or more lists of N texts. A word of one list is not that word of another.
        labels: [N] in {0, 1}.

    Raises:
        ValueError: no text holds a word.

    Example:
        >>> fit = fit_words([["a b", "a c", "a b", "c"]], np.array([1, 0, 1, 0]))
        >>> log_odds = fit(np.array([True, True, True, False]))
        >>> bool(log_odds[0] > log_odds[1] > log_odds[3])
        True
    """
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
    from sklearn.linear_model import LogisticRegression

    try:
        counts: list[Any] = [CountVectorizer(token_pattern=WORD).fit_transform(one) for one in texts]
    except ValueError:
        raise ValueError("expected texts with words, got none") from None

    def fit(rows: NDArray) -> NDArray:
        parts = []
        for all_words in counts:
            known = all_words[:, np.asarray(all_words[rows].sum(0)).ravel() > 0]  # as if other rows had not been seen
            if known.shape[1]:
                parts.append(TfidfTransformer().fit(known[rows]).transform(known))
        if not parts:
            return np.full(len(labels), base_log_odds(labels[rows]))
        words = hstack(parts).tocsr()
        return LogisticRegression(max_iter=STEPS).fit(words[rows], labels[rows]).decision_function(words)

    return fit


def fit_numbers(make: Callable[[NDArray], NDArray], labels: NDArray) -> Fit:
    """Logistic regression on numbers (scikit-learn's, C = 1), for `cross_fit`.

    Numbers are standardised by the rows that are fitted on. A missing one is replaced by their mean, and whether it is
    missing is a number of its own.

    Args:
        make: takes the rows to fit on, bool [N], and returns M numbers of all rows, [N, M], NaN where missing.
        labels: [N] in {0, 1}.

    Example:
        >>> numbers = np.array([[0.0], [1.0], [2.0], [np.nan]])
        >>> log_odds = fit_numbers(lambda rows: numbers, np.array([0, 0, 1, 1]))(np.array([True, True, True, False]))
        >>> bool(log_odds[0] < log_odds[3] < log_odds[2])
        True
    """
    from sklearn.linear_model import LogisticRegression

    def fit(rows: NDArray) -> NDArray:
        numbers = make(rows)
        missing = np.unique(np.isnan(numbers), axis=1).astype(np.float64)  # columns that lack the same rows are one
        numbers = numbers[:, ~np.isnan(numbers[rows]).all(0)]
        numbers = np.where(np.isnan(numbers), np.nanmean(numbers[rows], 0), numbers)
        both = np.concatenate((numbers, missing), 1)
        spread = both[rows].std(0)
        both = (both - both[rows].mean(0)) / np.where(spread > 0, spread, 1)
        return LogisticRegression(max_iter=STEPS).fit(both[rows], labels[rows]).decision_function(both)

    return fit


def rate_answers(said: NDArray, labels: NDArray, groups: NDArray, rows: NDArray) -> NDArray:
    """Log-odds of the share of right answers among the rows that say the same, float64 [N].

    The share is averaged with `PRIOR` examples at the base rate of `rows`. For one of `rows`, examples of its own group
    do not count: an answer that only its group gives has the base rate, as one that no row gives.

    Args:
        said: [N] numbers of the answers, equal for equal ones.
        labels: [N] in {0, 1}.
        groups: [N] integers.
        rows: bool [N], both classes among them.

    Example:
        >>> said, labels = np.array([0, 0, 1, 0]), np.array([1, 1, 0, 0])
        >>> log_odds = rate_answers(said, labels, np.arange(4), np.array([True, True, True, False]))
        >>> (1 / (1 + np.exp(-log_odds))).round(3).tolist()
        [0.778, 0.778, 0.667, 0.833]
    """
    base = labels[rows].mean()
    pairs = np.unique(np.stack((said, groups), 1), axis=0, return_inverse=True)[1].reshape(-1)

    def count(of: NDArray, weights: NDArray) -> NDArray:
        return np.bincount(of, weights, of.max() + 1)[of]

    n, right = rows.astype(np.float64), (rows * labels).astype(np.float64)
    others = count(said, n) - np.where(rows, count(pairs, n), 0)
    others_right = count(said, right) - np.where(rows, count(pairs, right), 0)
    rate = (others_right + PRIOR * base) / (others + PRIOR)
    return np.log(rate) - np.log1p(-rate)


def number_answers(texts: Sequence[str]) -> NDArray:
    """Number the answers, equal ones alike: case, punctuation and blanks do not count, int64 [N].

    >>> number_answers(["Paris.", "the  Nile", "paris"]).tolist()
    [0, 1, 0]
    """
    folded = [" ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())) for text in texts]
    return np.unique(np.array(folded, dtype=object), return_inverse=True)[1]


def base_log_odds(labels: NDArray) -> float:
    """Log of positive over negative examples; both must occur."""
    return float(np.log(labels.sum()) - np.log((1 - labels).sum()))
