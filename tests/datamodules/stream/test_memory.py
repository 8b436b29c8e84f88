import os

import pytest
import torch

from datamodules.stream import memory
from datamodules.stream.memory import Budget, measure_free_memory

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
GIB = 2**30


@pytest.fixture(autouse=True)
def _machine(monkeypatch):
    """24 GiB free, on a GPU 16 GiB, 16 processors."""
    monkeypatch.setattr(memory, "measure_free_memory", lambda: 24 * GIB)
    monkeypatch.setattr(memory, "measure_free_device_memory", lambda device: 16 * GIB)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)


def block(given, least=1, enough=2**60, scratch=0, device=CPU, **more):
    return Budget(given, **more).block(least, enough, scratch, device, "a cell")


def test_three_blocks_and_two_scratches_make_the_budget():
    assert block(3200, scratch=100) == 1000


def test_on_a_gpu_two_pinned_buffers_of_twice_the_size_and_eight_scratches():
    assert block(4800, scratch=100, device=GPU) == 1000


def test_no_more_than_is_of_use():
    assert block(3 * GIB, enough=1000) == 1000
    assert block(None, enough=1000, device=GPU) == memory.ENOUGH_FOR_GPU
    assert block(2 * GIB, enough=1000, device=GPU) == GIB // 2


def test_by_default_a_quarter_of_what_is_free():
    assert block(None) == 2 * GIB
    assert block(None, n_processes=4) == GIB // 2


def test_the_smallest_always_fits_and_that_is_said_once(caplog):
    budget = Budget(309)
    assert budget.block(100, 2**60, 10, CPU, "a cell") == 100
    assert budget.block(90, 2**60, 10, CPU, "a cell") == 96
    assert budget.block(100, 2**60, 10, CPU, "a cell") == 100
    assert [record.getMessage() for record in caplog.records] == [
        "datamodule.block_bytes: expected at least 320 bytes, 3 times a cell and what reads it, got 309; "
        "going on with 320"
    ]
    block(1, 100, quiet=True)
    assert len(caplog.records) == 1


def test_what_the_device_cannot_hold_makes_smaller_blocks_and_one_warning(caplog):
    assert block(100 * GIB, device=GPU) == GIB
    assert (
        "expected blocks of at most 1,073,741,824 bytes, a sixteenth of what is free on cuda:0, got 26," in caplog.text
    )
    caplog.clear()
    assert block(None, enough=2**60, device=GPU) == GIB
    assert not caplog.records


@pytest.fixture
def root(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:       9000 kB\nMemFree:  10 kB\nMemAvailable:    5000 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    return tmp_path


def group(folder, limit, usage, cached=0, names=("memory.max", "memory.current")):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, usage), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 77\nactive_file {cached}\ninactive_file 1000\nunevictable 0\n")


def test_what_the_system_has(root):
    assert measure_free_memory(root) == 5000 * 1024


def test_what_a_container_may_have_beside_its_page_cache(root):
    group(root / "sys/fs/cgroup", 2_000_000, 600_000, cached=100_000)
    assert measure_free_memory(root) == 2_000_000 - 600_000 + 101_000


def test_a_container_without_a_limit(root):
    group(root / "sys/fs/cgroup", "max", 600_000)
    assert measure_free_memory(root) == 5000 * 1024


def test_the_tightest_of_the_groups_around(root):
    (root / "proc/self/cgroup").write_text("0::/job/step\n")
    group(root / "sys/fs/cgroup/job/step", "max", 0)
    group(root / "sys/fs/cgroup/job", 1_000_000, 901_000)
    assert measure_free_memory(root) == 100_000


def test_version_one_of_control_groups(root):
    (root / "proc/self/cgroup").write_text("5:cpu,cpuacct:/job\n4:memory:/job\n0::/\n")
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    group(root / "sys/fs/cgroup/memory/job", 1_000_000, 801_000, names=names)
    group(root / "sys/fs/cgroup/memory", 2**63 - 4096, 801_000, names=names)
    assert measure_free_memory(root) == 200_000


def test_an_exhausted_group_has_nothing(root):
    group(root / "sys/fs/cgroup", 1000, 9000)
    assert measure_free_memory(root) == 0


def test_elsewhere_all_that_is_built_in(tmp_path):
    assert measure_free_memory(tmp_path) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
