"""Grids on several GPUs: their process group moves tensors of GPUs only, as NCCL does."""

import pytest
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch._C._distributed_c10d import HashStore, ProcessGroupGloo

from probes.grids.logistic import LogisticGrid
from tests.support.named_cells import NamedCells
from tests.support.trainers import quiet_trainer


@pytest.fixture(scope="module")
def group():
    """A process group that has no backend for the CPU; the default group has, and moves what lies on a device here."""

    def create(store, rank, size, timeout):
        return ProcessGroupGloo(store, rank, size, timeout)

    dist.Backend.register_backend("without_cpu", create, devices=["cuda"])
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield dist.new_group([0], backend="without_cpu")
    dist.destroy_process_group()


def test_maps_are_logged_without_moving_tensors_of_the_cpu(group, tmp_path):
    class Strategy(SingleDeviceStrategy):
        def reduce(self, tensor, *args, **kwargs):
            if tensor.is_floating_point():  # what is logged; the length of a loader lies on the device
                dist.all_reduce(tensor, group=group)
            return tensor

    with pytest.raises(RuntimeError, match="No backend type associated with device type cpu"):
        Strategy().reduce(torch.ones(1))
    grid, data = LogisticGrid(), NamedCells(names=("correctness",))
    trainer = quiet_trainer(tmp_path, strategy=Strategy(accelerator=None, device=torch.device("cpu")))
    trainer.fit(grid, data)
    trainer.test(grid, data, verbose=False)
    assert float(trainer.callback_metrics["test/auc_mean"]) == pytest.approx(float(grid.maps["test"][0].auc.mean()))


def test_a_precision_that_rounds_probes_is_refused(tmp_path):
    for precision in ("bf16-true", "16-true"):
        trainer = quiet_trainer(tmp_path, precision=precision)
        with pytest.raises(ValueError, match=f"^trainer.precision: expected 32-true, .* got {precision}; leave it out"):
            trainer.fit(LogisticGrid(), NamedCells(names=("correctness",)))
