"""Fitted baselines against scikit-learn's own pipelines and sums by hand."""

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info, threadpool_limits

from probes.analysis.log_odds import PRIOR, cross_fit, fit_numbers, fit_words, number_answers, rate_answers

N = 120
RNG = np.random.default_rng(0)
WORDS = np.array(["rome", "oslo", "is", "7", "the", "city", "x", "in", "norway", "italy"])
LABELS = (RNG.random(N) < 0.4).astype(int)
GROUPS = RNG.integers(0, 40, N)
TRAIN = np.arange(N) % 3 > 0


def make_texts(seed):
    rng = np.random.default_rng(seed)
    own = np.where(LABELS, "oslo", "rome")  # a word that tells
    return [" ".join([*rng.choice(WORDS, rng.integers(1, 6)), own[i] if rng.random() < 0.5 else ""]) for i in range(N)]


def make_vectorizer():
    return TfidfVectorizer(token_pattern=r"(?u)\b\w+\b")


@pytest.mark.parametrize("lists", [1, 2])
def test_words_against_scikit_learn(lists):
    """The vocabulary and the frequencies are those of the rows fitted on: `late` occurs in other rows alone."""
    texts = [make_texts(seed) for seed in range(lists)]
    texts[0][int(np.flatnonzero(~TRAIN)[0])] += " late"
    table = np.array(texts, dtype=object).T
    columns = ColumnTransformer([(str(i), make_vectorizer(), i) for i in range(lists)])
    oracle = make_pipeline(columns, LogisticRegression(max_iter=1000)).fit(table[TRAIN], LABELS[TRAIN])
    np.testing.assert_allclose(fit_words(texts, LABELS)(TRAIN), oracle.decision_function(table), atol=1e-6)


def test_texts_without_words_are_refused():
    with pytest.raises(ValueError, match="expected texts with words, got none"):
        fit_words([["", "?!", ""]], np.array([0, 1, 1]))


def test_rows_that_share_no_word_get_the_base_rate():
    log_odds = fit_words([["", "", "", "a"]], np.array([1, 0, 1, 0]))(np.array([True, True, True, False]))
    np.testing.assert_allclose(log_odds, np.log(2))


def test_numbers_against_scikit_learn():
    """Means stand in for what is missing, which is a number of its own; both by the rows fitted on."""
    numbers = RNG.normal([0, 50, -3], [1, 10, 0.01], (N, 3)) + LABELS[:, None]
    numbers[RNG.random(N) < 0.2, 1] = np.nan
    oracle = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler(), LogisticRegression(max_iter=1000))
    oracle.fit(numbers[TRAIN], LABELS[TRAIN])
    found = fit_numbers(lambda rows: numbers, LABELS)(TRAIN)
    np.testing.assert_allclose(found, oracle.decision_function(numbers), atol=1e-5)


def test_numbers_that_no_row_fitted_on_has_are_dropped():
    numbers = np.stack((RNG.normal(size=N) + LABELS, np.where(TRAIN, np.nan, 1.0)), 1)
    with_it, without = (fit_numbers(lambda rows, m=m: m, LABELS)(TRAIN) for m in (numbers, numbers[:, :1]))
    np.testing.assert_allclose(with_it, without, atol=1e-6)


def test_numbers_that_lack_the_same_rows_share_one_column():
    """Ten numbers of the exact answer are missing together; their absence must not count ten times."""
    gaps = np.where(RNG.random(N) < 0.3, np.nan, 0.0)[:, None]
    both = RNG.normal(size=(N, 2)) + gaps
    oracle = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(max_iter=1000))
    X = np.column_stack((np.where(np.isnan(both), np.nanmean(both[TRAIN], 0), both), np.isnan(gaps)))
    oracle.fit(X[TRAIN], LABELS[TRAIN])
    expected = np.asarray(oracle.decision_function(X))
    np.testing.assert_allclose(fit_numbers(lambda rows: both, LABELS)(TRAIN), expected, atol=1e-5)


def test_train_rows_are_scored_by_fits_to_other_groups():
    """Against scikit-learn's cross-validation on the same folds; a group is never on both sides."""
    numbers = RNG.normal(size=(N, 3)) + LABELS[:, None]
    seen = []

    def fit(rows):
        seen.append(rows)
        return fit_numbers(lambda rows: numbers, LABELS)(rows)

    found = cross_fit(fit, TRAIN, LABELS, GROUPS)
    whole, *others = seen
    assert (whole == TRAIN).all()
    assert len(others) == 5
    folds = np.zeros(N, int)
    for fold, rows in enumerate(others):
        assert not set(GROUPS[rows]) & set(GROUPS[TRAIN & ~rows])
        folds[TRAIN & ~rows] = fold
    oracle = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    expected = cross_val_predict(
        oracle, numbers[TRAIN], LABELS[TRAIN], cv=PredefinedSplit(folds[TRAIN]), method="decision_function"
    )
    np.testing.assert_allclose(found[TRAIN], np.asarray(expected), atol=1e-6)
    oracle.fit(numbers[TRAIN], LABELS[TRAIN])
    np.testing.assert_allclose(found[~TRAIN], oracle.decision_function(numbers[~TRAIN]), atol=1e-6)


def test_a_fold_whose_other_folds_lack_a_class_has_no_score():
    labels = np.array([1, 0, 0, 0])
    found = cross_fit(lambda rows: np.zeros(4), np.ones(4, bool), labels, np.arange(4))
    assert np.isnan(found).tolist() == [True, False, False, False]


def test_fits_take_one_thread_whatever_the_machine_has():
    seen = set()

    def fit(rows):
        seen.update(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return np.zeros(4)

    with threadpool_limits(2, "blas"):
        cross_fit(fit, np.ones(4, bool), np.array([0, 1, 0, 1]), np.arange(4))
        after = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
    assert (seen, after) == ({1}, {2})


def test_rates_by_hand():
    """Every example against a sum over the train rows that say the same and are of another group."""
    said = RNG.integers(0, 12, N)
    found = rate_answers(said, LABELS, GROUPS, TRAIN)
    base = LABELS[TRAIN].mean()
    for i in range(N):
        others = TRAIN & (said == said[i]) & ~(TRAIN[i] & (GROUPS[i] == GROUPS))
        rate = (LABELS[others].sum() + PRIOR * base) / (others.sum() + PRIOR)
        assert found[i] == pytest.approx(np.log(rate / (1 - rate)), abs=1e-12)


def test_a_group_does_not_rate_itself():
    """Where groups are the said answers, held out whole, nothing is known of any: all have the base rate."""
    said = RNG.integers(0, 12, N)
    rows = np.isin(said, range(9))
    np.testing.assert_allclose(
        rate_answers(said, LABELS, said, rows), np.log(LABELS[rows].mean() / (1 - LABELS[rows].mean()))
    )


def test_answers_are_alike_apart_from_case_punctuation_and_blanks():
    texts = ["The Nile", "the  nile.", "Nile", "", "?", "ＮＩＬＥ", "nile delta"]
    numbers = number_answers(texts)
    assert numbers[0] == numbers[1]
    assert numbers[2] == numbers[5]
    assert numbers[3] == numbers[4]
    assert len(set(numbers)) == 4
