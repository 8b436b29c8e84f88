import threading

import pytest
import torch

from tests.support.simulated_cuda import CUDA, SimulatedCuda, simulate


def test_it_computes_what_the_cpu_computes_and_says_where_it_is():
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    with SimulatedCuda():
        product = simulate(a) @ simulate(b)
        assert product.is_cuda
        assert product.device == CUDA
        assert product.new_zeros(2).is_cuda
        assert torch.zeros_like(product).is_cuda
        back = product.cpu()
    assert not back.is_cuda
    assert torch.equal(back, a @ b)


@pytest.mark.parametrize("make", [torch.zeros, torch.ones, torch.empty, torch.arange, torch.randperm])
def test_new_tensors_are_made_on_it(make):
    with SimulatedCuda():
        assert make(3, device="cuda").is_cuda
        assert torch.tensor([1, 2], device=CUDA).is_cuda
        assert not make(3).is_cuda


@pytest.mark.parametrize(
    "mix",
    [
        lambda here, there: here + there,
        lambda here, there: there @ here,
        lambda here, there: torch.cat([here, there]),
        lambda here, there: here[there > 0],
        lambda here, there: torch.where(there > 0, here, there),
        lambda here, there: there.gather(0, here.long()),
        lambda here, there: there.index_put_((torch.arange(2),), here),
    ],
)
def test_two_devices_in_one_operation_are_refused(mix):
    with SimulatedCuda(), pytest.raises(RuntimeError, match=r"same device|indices should be"):
        mix(torch.ones(2, 2), simulate(torch.ones(2, 2)))


def test_single_numbers_and_indices_on_the_cpu_are_taken():
    with SimulatedCuda():
        there = simulate(torch.arange(6.0))
        assert (there * torch.tensor(2.0)).tolist() == [0, 2, 4, 6, 8, 10]
        assert there[torch.tensor([1, 3])].tolist() == [1, 3]
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()


def test_launches_waits_and_copies_are_counted():
    with SimulatedCuda() as device:
        x = simulate(torch.arange(8, dtype=torch.float32))
        assert (device.launches, device.synchronisations, device.copies, device.copied) == (0, 1, 1, 32)
        y = x.view(2, 4).T[1:].exp() + 1  # views are no launch
        assert (device.launches, device.operations["exp"]) == (2, 1)
        x.to("cuda", torch.float32)  # is there
        assert device.copies == 1
        assert y.sum().item() > 0
        assert device.synchronisations == 2
        x[x > 3]
        assert device.synchronisations == 3
        x.to("cpu", non_blocking=True)
        torch.zeros(8).copy_(x)
        x.copy_(torch.zeros(8), non_blocking=True)
        assert (device.copies, device.copied, device.synchronisations) == (4, 128, 5)
        assert x.tolist() == [0] * 8


def test_memory_is_counted_by_storage_and_ends():
    with SimulatedCuda(memory=1000) as device:
        x = simulate(torch.zeros(100))
        views = x[:50], x.view(10, 10)
        assert (device.live, device.free) == (400, 600)
        with pytest.raises(torch.OutOfMemoryError, match=r"CUDA out of memory\. Tried to allocate 800 bytes"):
            torch.zeros(200, device="cuda")
        assert torch.cuda.mem_get_info() == (600, 1000)
        del x
        assert device.live == 400  # a view holds it
        del views
        assert (device.live, device.peak) == (0, 400)
        torch.zeros(200, device="cuda")


def test_in_place_operations_keep_the_tensor():
    with SimulatedCuda() as device:
        x = simulate(torch.zeros(4))
        assert x.add_(1) is x
        x[1:3] = 5
        assert x.tolist() == [1, 5, 5, 1]
        assert device.live == 16


@pytest.mark.parametrize("sets", [True, False])
def test_a_thread_has_to_set_its_device(sets):
    errors, made = [], []

    def work():
        try:
            if sets:
                torch.cuda.set_device(CUDA)
            made.append(torch.ones(2).to("cuda").sum().item())
        except Exception as error:
            errors.append(error)

    with SimulatedCuda() as device:
        thread = threading.Thread(target=work, name="worker")
        thread.start()
        thread.join()
    assert (made, device.threads) == (([2.0], ["worker"]) if sets else ([], []))
    assert bool(errors) != sets


def test_under_inference_mode_and_linear_algebra():
    a = torch.randn(3, 5, 5, dtype=torch.float64)
    a = a @ a.mT + torch.eye(5)
    with SimulatedCuda(), torch.inference_mode():
        there = simulate(a)
        half = torch.linalg.cholesky(there)
        assert half.is_cuda
        assert torch.allclose((half @ half.mT).cpu(), a)
        assert there.reshape(-1).to(torch.float32).is_cuda
        assert torch.nn.functional.linear(there, there[0]).is_cuda
