"""Processes that hold parts of one model go through the same batches, whichever of them runs out of memory."""

import json
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from datamodules.language import running_model
from datamodules.language.agreement import agree_on_failure, agree_on_least
from datamodules.language.language_model import LanguageModel
from datamodules.language.running_model import RunningModel
from tests.support.simulated_cuda import CUDA, SimulatedCuda
from tests.support.warm import keep_warm

LENGTHS = [5] * 12 + [20] * 4


def work(rank, folder, model_folder):
    """One process of two; the second one runs out of memory behind its forward, and says that it has less memory."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    running_model.count_fitting_tokens = lambda model, written: 60 - 20 * rank  # on CUDA devices of two sizes
    network = LanguageModel(model_folder, dtype="float32").load("cpu")
    LanguageModel.load = lambda *_, **__: network
    model = LanguageModel(model_folder, dtype="float32", batch_size=8, tp_plan="auto")
    running = RunningModel(model, torch.device("cpu"), head=True, quiet=True)
    torch.set_num_threads(1)
    tried: list[int] = []

    def compute(batch):
        tried.append(len(batch))
        parts = torch.full((len(batch), 3), float(rank))
        dist.all_reduce(parts)  # as the forward of a model in parts does: sizes that differ end in an error or garbage
        assert (parts == 1).all()
        if rank == 1 and len(tried) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch

    sequences = [[1] * length for length in LENGTHS]
    if rank == 0:
        assert (running.writing.most, running.reading.most) == (40, 40)  # one process alone estimates
    made = {}
    for written in (0, 15):
        batches = [batch for batch, _ in running.run(range(16), sequences, compute, written)]
        made[written] = tried.copy(), batches
        tried.clear()
    Path(folder, f"{rank}.json").write_text(json.dumps(made))
    dist.destroy_process_group()


def test_two_processes_halve_together(tiny_model, tmp_path):
    keep_warm()
    start_processes(work, (str(tmp_path), str(tiny_model)), nprocs=2, start_method="forkserver")
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    # The limit of both is 40 tokens, the lesser one; of the second batch, half of its own tokens.
    assert first["0"][0] == [8, 4, 2, 2, 1, 1, 1, 1]
    assert first["15"][0] == [2, 2] + [1] * 14
    for _, batches in first.values():
        assert sorted(row for batch in batches for row in batch) == list(range(16))


def test_alone_there_is_nothing_to_agree_on():
    device = torch.device("cpu")
    assert [agree_on_failure(failed, device) for failed in (False, True)] == [False, True]
    assert agree_on_least(7, device) == 7


def test_what_is_shared_lies_on_the_device_of_the_model(monkeypatch):
    """NCCL takes no tensors of the CPU."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    seen = []
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, op: seen.append((tensor.device, op)))
    with SimulatedCuda():
        assert agree_on_failure(True, CUDA)
        assert agree_on_least(5, CUDA) == 5
    assert seen == [(CUDA, dist.ReduceOp.MAX), (CUDA, dist.ReduceOp.MIN)]
