"""What a GPU is given: batches that fit, in few launches, on a device that is simulated."""

import warnings

import pytest
import torch

from probes.analysis.auroc import auroc_with_variance
from probes.solver import batches, methods
from probes.solver.batches import is_out_of_memory
from probes.solver.logistic import LogisticFit, fit_logistic
from probes.solver.mass_mean import fit_mass_mean
from tests.probes.solver.test_methods import assert_optimal, made
from tests.support.simulated_cuda import SimulatedCuda, simulate

SMALL, FEW_ROWS, MANY_ROWS = (60, 600), (270, 560), (560, 520)  # factored in float64; without a factor, and with one


def on_cpu(fields):
    return [field.cpu() for field in fields]


def assert_same_scores(fit, expected, acts):
    """To 1e-6 of the largest score of a probe; NaN where the other is."""
    one, other = ((acts.double() @ f.weight.double()[..., None])[..., 0] + f.bias[..., None] for f in (fit, expected))
    scale = other.abs().amax(-1, keepdim=True)
    torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("size", [SMALL, FEW_ROWS, MANY_ROWS])
@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_a_fit_on_the_device_is_that_on_the_cpu(size, decay):
    acts, labels = made(3, *size, decay=decay)
    acts[1, :, 5] *= 100
    expected = fit_logistic(acts, labels)
    with SimulatedCuda():
        fit = fit_logistic(simulate(acts), simulate(labels))
        assert fit.weight.is_cuda
        fit = LogisticFit._make(on_cpu(fit))
    assert_optimal(fit, acts, labels)
    assert_same_scores(fit, expected, acts)


@pytest.mark.parametrize("size", [FEW_ROWS, MANY_ROWS])
def test_label_sets_and_penalties_on_the_device_are_those_on_the_cpu(size):
    acts, labels = made(2, *size)
    valid = torch.rand(3, 2, size[0], generator=torch.Generator().manual_seed(1)) < 0.9
    sets = torch.stack((labels, 1 - labels, labels.flip(-1)))
    sets[2, 1] = 1  # one class only
    expected = fit_logistic(acts, sets, valid, l2=[1.0, 100.0], standardize=True)
    with SimulatedCuda():
        fit = fit_logistic(simulate(acts), sets, valid, l2=[1.0, 100.0], standardize=True)
        fit = LogisticFit._make(on_cpu(fit))
    torch.testing.assert_close(fit.objective, expected.objective, rtol=3e-7, atol=0, equal_nan=True)
    assert_same_scores(fit, expected, acts)
    assert torch.equal(fit.converged, expected.converged)
    assert torch.equal(fit.reason, expected.reason)


@pytest.mark.parametrize("whiten", [False, True])
def test_mass_means_and_areas_on_the_device_are_those_on_the_cpu(whiten):
    acts, labels = made(2, 50, 30)
    expected = *fit_mass_mean(acts, labels, whiten=whiten), *auroc_with_variance(acts[..., 0], labels)
    with SimulatedCuda():
        there, sets = simulate(acts), simulate(labels)
        found = on_cpu((*fit_mass_mean(there, sets, whiten=whiten), *auroc_with_variance(there[..., 0], sets)))
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))


@pytest.mark.parametrize("size", [FEW_ROWS, MANY_ROWS])
@pytest.mark.parametrize("C", [1, 6])
def test_a_batch_takes_few_launches_and_waits(size, C):
    """However many cells and label sets are in it."""
    acts, labels = made(C, *size)
    acts[..., 5] *= 100
    with SimulatedCuda() as device:
        there = simulate(acts)
        fit = fit_logistic(there, torch.stack((labels, 1 - labels)))
        assert fit.converged.all()
        steps = int(fit.iterations.max())
    assert steps <= 200
    assert device.launches <= 1000 + 190 * steps
    assert device.synchronisations <= 20 + 2 * steps
    assert "median" not in device.operations  # it has no deterministic version


@pytest.mark.parametrize("size", [FEW_ROWS, MANY_ROWS, (500, 400)])
@pytest.mark.parametrize("K", [1, 5])
def test_the_memory_of_a_batch_is_what_was_reckoned(size, K):
    acts, labels = made(4, *size)
    with SimulatedCuda() as device:
        there = simulate(acts)
        device.peak = before = device.live
        fit_logistic(there, labels.expand(K, 4, -1))
    taken, reckoned = (device.peak - before) / 4, methods.bytes_of_cell(size[0], size[1], K, 1, 4)
    assert taken <= reckoned <= 2.5 * taken


@pytest.mark.parametrize(
    ("size", "K", "P", "dtype"),
    [(FEW_ROWS, 2, 1, "half"), (FEW_ROWS, 2, 24, "half"), (FEW_ROWS, 1, 1, "double"), (MANY_ROWS, 1, 1, "half")],
)
def test_the_memory_of_a_batch_with_masks_penalties_and_factors_is_what_was_reckoned(size, K, P, dtype):
    acts, labels = made(2, *size, decay=1.0)
    acts, l2 = acts.to(getattr(torch, dtype)), [0.01] if size is MANY_ROWS else [100.0 + p for p in range(P)]
    valid = torch.rand(K, 2, size[0], generator=torch.Generator().manual_seed(1)) < 0.9
    with SimulatedCuda() as device:
        there, sets, valid = simulate(acts), simulate(labels.expand(K, 2, -1)), simulate(valid)
        device.peak = before = device.live
        fit_logistic(there, sets, valid, l2=l2)
        if size is MANY_ROWS:
            assert device.operations["linalg_cholesky_ex"] > 1
    taken, reckoned = (device.peak - before) / 2, methods.bytes_of_cell(size[0], size[1], K, P, acts.element_size())
    assert taken <= reckoned <= 2.5 * taken


def limited(memory, acts, labels, **settings):
    """A fit on a device of so many bytes beside the activations, the warnings, and the batches it was solved in."""
    with SimulatedCuda() as device, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        there, labels = simulate(acts), simulate(labels)
        device.memory = device.live + memory
        fit = fit_logistic(there, labels, **settings)
        device.memory = None
        return LogisticFit._make(on_cpu(fit)), [str(one.message) for one in caught]


@pytest.fixture
def batch_sizes(monkeypatch):
    """How many cells each try to solve a batch had; room is taken to be without an end."""
    sizes = []

    def count(acts, sign, l2, tol, max_iter, standardize, cells, *more, solve=methods.solve):
        sizes.append((len(cells), acts.is_cuda))
        return solve(acts, sign, l2, tol, max_iter, standardize, cells, *more)

    def count_one(acts, *more, solve=methods.solve_alone):
        sizes.append((1, acts.is_cuda))
        return solve(acts, *more)

    monkeypatch.setattr("probes.solver.logistic.solve", count)
    monkeypatch.setattr("probes.solver.logistic.solve_alone", count_one)
    monkeypatch.setattr("probes.solver.logistic.room", lambda _: 2**40)
    return sizes


def test_out_of_memory_halves_the_batch(batch_sizes):
    acts, labels = made(6, *FEW_ROWS)
    expected = fit_logistic(acts, labels)
    batch_sizes.clear()
    fit, messages = limited(10**7, acts, labels)
    assert batch_sizes[:2] == [(6, True), (3, True)]
    assert all(there for _, there in batch_sizes)
    assert messages == ["fit_logistic: out of device memory; going on with fewer cells at once"]
    torch.testing.assert_close(fit.objective, expected.objective, rtol=1e-7, atol=0)


def test_a_cell_that_does_not_fit_is_solved_on_the_cpu(batch_sizes):
    acts, labels = made(3, *FEW_ROWS)
    expected = fit_logistic(acts, labels, l2=[1.0, 2.0])
    batch_sizes.clear()
    fit, messages = limited(10**6, acts, labels, l2=[1.0, 2.0])
    assert batch_sizes == [(3, True), (2, True), (1, True), (1, False), (1, True), (1, False), (1, True), (1, False)]
    assert messages == [
        "fit_logistic: out of device memory; going on with fewer cells at once",
        "fit_logistic: out of device memory; solving a cell on the CPU, more slowly",
    ]
    torch.testing.assert_close(fit.objective, expected.objective, rtol=1e-7, atol=0)
    torch.testing.assert_close(fit.weight, expected.weight, rtol=1e-5, atol=1e-6)


def test_what_is_not_finite_is_named_by_its_cell_on_the_cpu_too(batch_sizes):
    acts, labels = made(3, *FEW_ROWS)
    acts[2, 7, 3] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity in cell 2, row 7;"):
        limited(10**6, acts, labels)


@pytest.mark.parametrize("size", [SMALL, FEW_ROWS, MANY_ROWS])
@pytest.mark.parametrize("some_rows", [False, True])
def test_what_is_not_finite_on_the_device_is_named_by_its_cell_and_row(size, some_rows):
    acts, labels = made(3, *size)
    acts[2, 7, 3] = torch.nan
    valid = torch.ones(size[0], dtype=torch.bool)
    valid[2] = not some_rows
    with SimulatedCuda(), pytest.raises(ValueError, match="NaN or infinity in cell 2, row 7;"):
        fit_logistic(simulate(acts), simulate(labels), simulate(valid))


def test_what_was_tried_holds_no_memory_while_the_next_is_tried(monkeypatch):
    """Of a failed try the error's traceback would hold every tensor."""
    acts, labels = made(4, *FEW_ROWS)
    live = []
    with SimulatedCuda() as device, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        there, labels = simulate(acts), simulate(labels)

        def fail_at_first(acts, sign, l2, tol, max_iter, standardize, cells, *more, solve=methods.solve):
            live.append(device.live)
            if len(cells) > 1:
                kept = there.double()
                raise RuntimeError(f"CUDA error: out of memory, beside {kept.shape}")
            return solve(acts, sign, l2, tol, max_iter, standardize, cells, *more)

        monkeypatch.setattr("probes.solver.logistic.solve", fail_at_first)
        fit_logistic(there, labels)
    assert len(live) == 6
    assert max(live) - live[0] < acts.numel() * 2  # what cells that were solved left, not what was kept


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("CUDA out of memory. Tried to allocate 20.00 GiB.", True),
        ("CUDA error: out of memory", True),
        ("HIP out of memory. Tried to allocate 2.00 GiB.", True),
        ("MPS backend out of memory (MPS allocated: 17.0 GB)", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", True),
        ("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED", True),
        ("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate(handle)`", True),
        ("CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`", True),
        ("CUDA error: an illegal memory access was encountered", False),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`", False),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_out_of_memory_in_the_words_of_every_library(message, expected):
    assert is_out_of_memory(RuntimeError(message)) == expected
    assert not is_out_of_memory(ValueError(message))


def test_out_of_memory_by_its_class():
    assert is_out_of_memory(torch.OutOfMemoryError("no words"))


def test_other_errors_are_raised(monkeypatch):
    def fail(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("probes.solver.logistic.solve", fail)
    acts, labels = made(2, *SMALL)
    with SimulatedCuda(), pytest.raises(RuntimeError, match="illegal memory access"):
        fit_logistic(simulate(acts), labels)


def test_room_is_a_share_of_what_is_free_and_bounded():
    with SimulatedCuda(memory=10**6) as device:
        one = simulate(torch.zeros(100_000))
        assert batches.room(one.device) == 300_000
        device.memory = None
        assert batches.room(one.device) == batches.MOST


def test_only_cells_with_a_spoilt_problem_are_factored_one_at_a_time(monkeypatch):
    acts, labels = made(4, *FEW_ROWS)
    acts = acts.float()
    expected = fit_logistic(acts, labels)
    descend, shapes = methods.descend_together, []

    def spoil(*given):
        optimum = descend(*given)
        optimum.converged[2, 0] = False
        optimum.objective[2, 0] += 1
        optimum.weight[2, 0] = 7.0
        return optimum

    def record(X, *given, factored=methods._factored):
        shapes.append(list(X.shape))
        return factored(X, *given)

    monkeypatch.setattr(methods, "descend_together", spoil)
    monkeypatch.setattr(methods, "_factored", record)
    with SimulatedCuda():
        fit = fit_logistic(simulate(acts), torch.stack((labels, 1 - labels)))
        assert fit.converged.all()
        objective = fit.objective.cpu()
    assert shapes == [[1, *FEW_ROWS]]
    torch.testing.assert_close(objective[0], expected.objective, rtol=1e-7, atol=0)


def test_problems_are_factored_as_many_at_once_as_fit(monkeypatch):
    acts, labels = made(1, *SMALL)
    together = []

    def record(X, mean, gram, s, *given, newton=methods.newton):
        together.append(s.shape[1])
        return newton(X, mean, gram, s, *given)

    monkeypatch.setattr(methods, "newton", record)
    monkeypatch.setattr(methods, "room", lambda _: 3 * methods.factored_bytes(*SMALL))
    with SimulatedCuda():
        fit = fit_logistic(simulate(acts), labels.expand(7, 1, -1))
        assert fit.converged.all()
    assert together == [3, 3, 1]
