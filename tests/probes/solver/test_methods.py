"""Large cells by each of the methods that solve them, against scikit-learn and each other."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from probes.solver import ladder, methods, newton_cg
from probes.solver.lbfgs import STUCK
from probes.solver.logistic import REASONS, fit_logistic

FEW_ROWS, MANY_ROWS = (270, 560), (800, 520)  # (N, D)


@pytest.fixture(params=["alone, few rows", "alone, many rows", "Gram matrix", "activations"])
def size(request, monkeypatch):
    """(N, D) of a cell, and only the method named to solve it."""
    monkeypatch.setattr(methods, "_one_at_a_time", lambda *_: request.param.startswith("alone"))
    monkeypatch.setattr(methods, "GRAM_ROWS", 600)
    return FEW_ROWS if request.param in ("alone, few rows", "Gram matrix") else MANY_ROWS


def made(C, N, D, *, decay=1.0, seed=0):
    """Activations [C, N, D] bfloat16 whose variances fall like j^-decay along hidden axes, and labels [C, N]."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.arange(1, D + 1).double() ** (-decay / 2)
    rotation = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64)).Q
    acts = torch.randn(C, N, D, generator=generator, dtype=torch.float64) * (
        spread * (D / spread.square().sum()).sqrt()
    )
    direction = torch.randn(C, D, 1, generator=generator, dtype=torch.float64) * spread
    margin = (acts @ direction)[..., 0]
    margin = margin / margin.std(-1, keepdim=True) + torch.randn(C, N, generator=generator, dtype=torch.float64)
    return (acts @ rotation).bfloat16(), (margin > 0.3).long()


def objective(acts, labels, weight, bias, l2=1.0):
    margin = (2 * labels.numpy() - 1) * (acts.double().numpy() @ weight.double().numpy() + bias.double().item())
    return np.logaddexp(0, -margin).sum() + l2 / 2 * (weight.double().numpy() ** 2).sum()


def least_objective(acts, labels, l2=1.0):
    """scikit-learn's, on centred columns: the same problem up to the intercept."""
    X = acts.double().numpy()
    model = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=1000, solver="newton-cholesky")
    model.fit(X - X.mean(0), labels.numpy())
    weight = torch.from_numpy(model.coef_[0])
    return objective(
        acts, labels, weight, torch.from_numpy(np.asarray(model.intercept_)) - acts.double().mean(0) @ weight, l2
    )


def assert_optimal(fit, acts, labels, l2=1.0):
    assert fit.converged.all()
    assert (fit.gradient_norm <= 1e-4).all()
    for cell in range(len(acts)):
        best = least_objective(acts[cell], labels[cell], l2)
        assert objective(acts[cell], labels[cell], fit.weight[cell], fit.bias[cell], l2) <= best * (1 + 1e-8)
        assert fit.objective[cell].item() == pytest.approx(best, rel=1e-6)


@pytest.fixture
def no_fallback(monkeypatch):
    def refuse(*_):
        raise AssertionError("conjugate gradients left a cell to the other method")

    monkeypatch.setattr(methods, "_factored", refuse)


@pytest.mark.parametrize("decay", [0.0, 1.0])
@pytest.mark.usefixtures("no_fallback")
def test_reaches_the_optimum_of_scikit_learn(size, decay):
    acts, labels = made(2, *size, decay=decay)
    assert_optimal(fit_logistic(acts, labels), acts, labels)


def test_few_directions_that_hold_nearly_all_variance(size):
    acts, labels = made(2, *size, decay=2.0)
    assert_optimal(fit_logistic(acts, labels), acts, labels)


@pytest.mark.parametrize("l2", [0.03, 100.0])
@pytest.mark.usefixtures("no_fallback")
def test_weak_and_strong_penalties(size, l2):
    acts, labels = made(1, *size)
    assert_optimal(fit_logistic(acts, labels, l2=l2), acts, labels, l2)


@pytest.mark.usefixtures("no_fallback")
def test_columns_that_dwarf_the_others(size):
    acts, labels = made(2, *size)
    acts[..., 5] *= 1000
    acts[0, :, 9] = 300 * acts[0, :, 9] + 2000
    acts[1, :, 100:103] *= 30
    assert_optimal(fit_logistic(acts, labels), acts, labels)


def test_separable_classes_and_repeated_rows(size):
    acts, labels = made(1, *size)
    acts[0, 150:] = acts[0, :-150].clone()
    labels = (acts[..., :8].double().sum(-1) > 0.4).long()
    assert_optimal(fit_logistic(acts, labels), acts, labels)


def test_label_sets_and_penalties_at_once_are_those_one_by_one(size):
    acts, labels = made(2, *size)
    generator = torch.Generator().manual_seed(2)
    labels = torch.stack((labels, torch.randint(2, labels.shape, generator=generator), 1 - labels))
    valid = torch.rand(3, 1, size[0], generator=generator) < 0.97
    path = [10.0, 0.5]
    fit = fit_logistic(acts, labels, valid, l2=path)
    assert fit.weight.shape == (2, 3, 2, size[1])
    assert all(field.shape == (2, 3, 2) for field in fit[1:])
    for p, l2 in enumerate(path):
        for k in range(3):
            one = fit_logistic(acts, labels[k], valid[k], l2=l2)
            torch.testing.assert_close(fit.objective[p, k], one.objective, rtol=1e-7, atol=0)
            torch.testing.assert_close(fit.weight[p, k], one.weight, rtol=0, atol=1e-6)
    assert fit.converged.all()


def test_penalties_alone_stand_in_front():
    acts, labels = made(2, 40, 60)
    fit = fit_logistic(acts, labels, l2=[3.0, 1.0, 0.1])
    assert fit.weight.shape == (3, 2, 60)
    for p, l2 in enumerate([3.0, 1.0, 0.1]):
        torch.testing.assert_close(fit.weight[p], fit_logistic(acts, labels, l2=l2).weight)


def test_the_number_of_threads_changes_no_bit(size):
    acts, labels = made(2, *size)
    before = torch.get_num_threads()
    fits = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            fits.append(fit_logistic(acts, labels))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*fits, strict=True))


def test_a_gram_matrix_that_spoils_the_directions_leaves_the_cell_to_factoring(monkeypatch):
    monkeypatch.setattr(methods, "_one_at_a_time", lambda *_: False)
    acts, labels = made(2, *FEW_ROWS)
    expected = fit_logistic(acts, labels)
    exact = methods.symmetric_product
    monkeypatch.setattr(methods, "symmetric_product", lambda X: exact(X).mul_(0.2))  # directions far too long
    monkeypatch.setattr(newton_cg, "LAST_STEPS", 2)
    fit = fit_logistic(acts, labels)
    assert fit.converged.all()
    torch.testing.assert_close(fit.objective, expected.objective, rtol=1e-7, atol=0)


def test_rows_that_spoil_the_directions_leave_the_cell_to_factoring(monkeypatch):
    acts, labels = made(2, *FEW_ROWS)
    acts *= torch.logspace(-1, 1, 560)
    expected = fit_logistic(acts, labels, standardize=True)
    begin = ladder.descend

    def descend(rows, descents, factor, most, several):  # as where no direction leads down
        begin(rows, descents, factor, 0, several)
        descents.state["status"] = STUCK
        return 3

    monkeypatch.setattr(ladder, "descend", descend)
    fit = fit_logistic(acts, labels, standardize=True)
    assert fit.converged.all()
    assert (fit.iterations > 1).all()
    torch.testing.assert_close(fit.objective, expected.objective, rtol=1e-7, atol=0)
    torch.testing.assert_close(fit.weight, expected.weight, rtol=0, atol=1e-5)
    assert fit_logistic(acts, labels, max_iter=1).weight.isfinite().all()


def test_steps_that_run_out_are_the_truth_about_where_they_stopped(size):
    acts, labels = made(1, *size)
    acts = acts.double()  # so that weights are returned in float64
    acts[..., 5] = 500 * acts[..., 5] + 100
    full = fit_logistic(acts, labels)
    for steps in sorted({0, 1, 2, 5, 10, int(full.iterations) - 1} & set(range(int(full.iterations)))):
        fit = fit_logistic(acts, labels, max_iter=steps)
        weight, bias = fit.weight[0].numpy(), fit.bias.item()
        residual = 1 / (1 + np.exp(-(acts[0].numpy() @ weight + bias))) - labels[0].numpy()
        gradient = np.append(acts[0].numpy().T @ residual + weight, residual.sum())
        assert fit.gradient_norm.item() == pytest.approx(np.linalg.norm(gradient), rel=1e-6, abs=1e-10)
        assert fit.iterations.item() == steps
        assert not fit.converged.any() or fit.gradient_norm.item() <= 1e-4
        assert steps > 5 or not fit.converged.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.usefixtures("no_fallback")
def test_every_dtype_is_solved_at_the_numbers_stored(size, dtype):
    acts, labels = made(1, *size)
    acts = (acts.double() + 1e-3 * torch.randn(acts.shape, generator=torch.Generator().manual_seed(1))).to(dtype)
    fit = fit_logistic(acts, labels)
    assert fit.weight.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_optimal(fit, acts, labels)


@pytest.mark.usefixtures("no_fallback")
def test_offsets_of_every_column(size):
    acts, labels = made(1, *size)
    acts = acts.float() + 50 * torch.randn(size[1], generator=torch.Generator().manual_seed(1))
    assert_optimal(fit_logistic(acts, labels), acts, labels)
    assert_optimal(fit_logistic(acts.bfloat16(), labels), acts.bfloat16(), labels)


@pytest.mark.parametrize(
    ("N", "D", "K", "expected"),
    [(350, 700, 11, True), (350, 700, 12, False), (351, 700, 12, True), (3001, 8000, 12, True), (700, 560, 12, True)],
)
def test_many_label_sets_share_a_gram_matrix_unless_rows_are_many(N, D, K, expected):
    assert methods._one_at_a_time(N, D, K) == expected


def test_one_hopeless_cell_does_not_touch_the_others():
    acts, labels = made(3, *FEW_ROWS)
    expected = fit_logistic(acts[[0, 2]], labels[[0, 2]])
    acts[1, :, 5:8] = 1e9 * acts[1, :, :1]  # columns alike, and beyond what the others' digits bear
    fit = fit_logistic(acts, labels)
    assert torch.equal(fit.weight[[0, 2]], expected.weight)
    assert fit.converged[[0, 2]].all()


@pytest.mark.parametrize("K", [1, 7])
def test_scales_beyond_float32_end_with_a_reason_and_without_a_warning(K):
    acts, labels = made(1, *FEW_ROWS)
    fit = fit_logistic(acts.float() * 1e18, labels.expand(K, 1, -1))
    assert fit.reason.unique().tolist() == [REASONS.index("beyond float32")]
    sink = acts.float()
    sink[0, 7] *= 1000
    assert_optimal(fit_logistic(sink, labels), sink, labels)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("K", [1, 7])
def test_what_is_not_finite_is_named_however_many_label_sets(bad, K):
    acts, labels = made(1, *FEW_ROWS)
    acts[0, 11, 3] = bad
    with pytest.raises(ValueError, match="NaN or infinity in cell 0, row 11;"):
        fit_logistic(acts, labels.expand(K, 1, -1))


def test_few_columns_that_are_not_zero():
    acts, labels = made(1, *FEW_ROWS)
    acts[..., 5:] = 0
    assert_optimal(fit_logistic(acts, labels), acts, labels)


def test_a_label_set_whose_own_rows_are_all_alike_has_no_fit():
    acts, labels = made(1, *FEW_ROWS)
    acts[0, 50:70] = acts[0, 50].clone()
    valid = torch.ones(2, 1, FEW_ROWS[0], dtype=torch.bool)
    valid[1, :, :50], valid[1, :, 70:] = False, False
    labels[0, 50:60], labels[0, 60:70] = 0, 1
    reasons = [REASONS[reason] for reason in fit_logistic(acts, labels, valid).reason[:, 0]]
    assert reasons == ["converged", "constant features"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_constant_columns_have_no_weight_however_many_label_sets(size, dtype):
    acts, labels = made(1, *size)
    acts = acts.to(dtype)
    acts[..., 40:90] = torch.rand(50, generator=torch.Generator().manual_seed(3)).to(dtype) * 100
    fit = fit_logistic(acts, labels, standardize=True)
    assert fit.weight[0, 40:90].abs().max() <= 1e-9 * fit.weight.abs().max()


def test_the_gradient_is_that_of_what_was_stored():
    acts, labels = made(1, *FEW_ROWS)
    acts = acts.float() + 300
    acts[..., 3] = 1e6  # constant: a rounded mean would leave a column of ones
    sign = torch.where(labels == 1, 1.0, -1.0).double()
    fit = methods.solve_alone(acts[0], sign, torch.ones(1).double(), 1e-4, 1000, False)[0]
    weight, bias = fit.weight[0, 0].numpy(), fit.bias.item()
    X = acts[0].double().numpy()
    residual = 1 / (1 + np.exp(-(X @ weight + bias))) - labels[0].numpy()
    norm = np.linalg.norm(np.append(X.T @ residual + weight, residual.sum()))
    assert fit.converged.all()
    assert norm == pytest.approx(fit.gradient_norm.item(), rel=1e-2, abs=2e-6)
