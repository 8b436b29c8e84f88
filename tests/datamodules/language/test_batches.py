import pytest
import torch

from datamodules.language.batches import Batches
from datamodules.language.device_memory import MemoryGauge, name_devices
from tests.support.simulated_cuda import CUDA, SimulatedCuda


def run(size, holds, lengths, first=100):
    """Batches of a computation that has memory for `holds` examples: what came back, and what was tried."""
    tried = []

    def compute(batch):
        tried.append(len(batch))
        if len(batch) > holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [-i for i in batch]

    rows = range(first, first + len(lengths))
    return list(Batches(size).run(rows, lengths, compute)), tried


def test_every_example_once_shortest_first():
    lengths = [5, 1, 4, 1, 9, 2, 6]
    batches, tried = run(3, 10, lengths)
    assert tried == [3, 3, 1]
    order = [i for batch, _ in batches for i in batch]
    assert sorted(order) == list(range(100, 107))
    assert [lengths[i - 100] for i in order] == sorted(lengths)
    assert all(result == [-i for i in batch] for batch, result in batches)


def test_a_batch_too_large_is_halved_and_said_once(caplog):
    batches, tried = run(8, 3, [1] * 20)
    assert tried == [8, 4, 2] + [2] * 9
    assert sorted(i for batch, _ in batches for i in batch) == list(range(100, 120))
    assert [r.message for r in caplog.records] == [
        "out of memory with 8 examples of up to 1 tokens: going on with fewer at once"
    ]


def test_the_allocator_of_the_cpu_is_understood_and_other_errors_are_not_passed_over():
    def failing(message):
        calls = []

        def compute(batch):
            calls.append(len(batch))
            if len(batch) > 1:
                raise RuntimeError(message)
            return batch

        list(Batches(2, quiet=True).run(range(2), [1, 1], compute))
        return calls

    assert failing("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to") == [2, 1, 1]
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        failing("mat1 and mat2 shapes cannot be multiplied")


def test_one_example_that_does_not_fit_is_told():
    with pytest.raises(ValueError, match="memory for one example of 3 tokens, got out of memory; choose"):
        run(4, 0, [7, 3])


def run_bounded(most, lengths, batches, failing=()):
    """Batches where memory holds `most` padded tokens: the rows of each that came back, and what was tried."""
    tried = []

    def compute(batch):
        tried.append((len(batch), max(lengths[i] for i in batch)))
        if tried[-1][0] * tried[-1][1] > most or len(tried) in failing:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch

    return [batch for batch, _ in batches.run(range(len(lengths)), lengths, compute)], tried


def test_one_long_example_leaves_batches_of_short_ones_whole():
    """A shard with one example of 4,000 tokens, and then one without."""
    batches = Batches(32, quiet=True)
    _, tried = run_bounded(30_000, [100] * 255 + [4000], batches)
    assert tried == [(32, 100)] * 7 + [(32, 4000), (31, 100), (1, 4000)]
    assert batches.most == 64_000
    _, tried = run_bounded(30_000, [100] * 256, batches)
    assert tried == [(32, 100)] * 8
    _, tried = run_bounded(30_000, [100] * 32 + [1000] * 62, batches)
    assert tried == [(32, 100), (32, 1000), (16, 1000), (16, 1000), (16, 1000), (14, 1000)]


def test_a_limit_that_is_known_beforehand_is_kept_to():
    batches, tried = run_bounded(10**9, [10] * 20 + [40] * 5 + [900], Batches(16, most=160))
    assert tried == [(16, 10), (4, 10), (4, 40), (1, 40), (1, 900)]  # one example is always tried
    assert sorted(i for batch in batches for i in batch) == list(range(26))


def test_what_did_not_fit_elsewhere_is_done_again_here():
    """Processes that hold parts of one model: the second batch fails in another one."""
    answers = iter([False, True, False, False, False])
    done, said = [], []

    def agree(failed):
        said.append(failed)
        return next(answers)

    batches = Batches(4, quiet=True, agree=agree)
    for batch, result in batches.run(range(10), [5] * 10, lambda batch: done.append(len(batch)) or batch):
        assert batch == result
    assert (done, said) == ([4, 4, 2, 2, 2], [False] * 5)


TOKEN = 1000  # bytes of a token on the simulated device


def run_on_device(memory, lengths, batches):
    """Batches whose tokens take memory of the device: how many examples were tried at once, fitting or not."""
    tried = []

    def compute(batch):
        tried.append(len(batch))
        torch.empty(len(batch) * max(lengths[i] for i in batch) * TOKEN, dtype=torch.uint8, device=CUDA)
        return batch

    with SimulatedCuda(memory):
        done = [i for batch, _ in batches.run(range(len(lengths)), lengths, compute) for i in batch]
    assert sorted(done) == list(range(len(lengths)))
    return tried


def grow(size=256, most=40, **settings):
    return Batches(size, quiet=True, most=most, gauge=MemoryGauge([CUDA]), **settings)


def test_batches_grow_to_the_shard_while_memory_is_left():
    batches = grow()
    assert run_on_device(10**9, [10] * 256, batches) == [4, 8, 16, 32, 64, 128, 4]
    assert run_on_device(10**9, [10] * 600, batches) == [256, 256, 88]  # the second shard
    assert batches.most == 2560  # the shard itself was the limit: no reason to go higher


def test_batches_grow_only_as_far_as_the_measured_memory_holds_them():
    """For 1,000 tokens: 320 of them leave room for 640, and 640 do not for 1,280. Nothing is tried in vain."""
    batches = grow()
    assert run_on_device(1000 * TOKEN, [10] * 256, batches) == [4, 8, 16, 32, 64, 64, 64, 4]
    assert batches.most == 640
    assert run_on_device(850 * TOKEN, [10] * 100, grow()) == [4, 8, 16, 32, 32, 8]  # 640 would be 75.3%


def test_a_batch_that_does_not_fit_ends_the_growth(caplog):
    batches = grow(most=600)
    assert run_on_device(500 * TOKEN, [10] * 100, batches) == [60, 30, 30, 30, 10]
    assert batches.most == 300
    assert run_on_device(10**9, [10] * 70, batches) == [30, 30, 10]  # for good, whatever is free later


def test_one_example_above_the_limit_grows_it_too():
    assert run_on_device(10**9, [10] * 8, grow(most=0)) == [1, 2, 4, 1]


def test_without_a_gauge_the_limit_stays():
    assert run_on_device(10**9, [10] * 10, Batches(256, most=40)) == [4, 4, 2]


def test_a_later_run_starts_with_what_worked(tmp_path):
    note = tmp_path / "batch-GPU"
    first = grow()
    first.resume(note)
    run_on_device(1000 * TOKEN, [10] * 256, first)
    assert note.read_text() == "640"
    second = grow()
    second.resume(note)
    assert run_on_device(1000 * TOKEN, [10] * 128, second) == [64, 64]
    second.most = 20
    second.resume(note)  # as before every shard: it was read already
    assert second.most == 20


def test_what_is_noted_has_worked(tmp_path):
    """A run that ends within its second batch notes the limit of the first one."""
    note, batches = tmp_path / "batch-GPU", grow()
    batches.resume(note)
    with SimulatedCuda():
        for _ in batches.run(range(32), [10] * 32, lambda batch: batch):
            assert note.read_text() == "40"
            break
    assert run_on_device(350 * TOKEN, [10] * 90, batches) == [4, 8, 16, 16, 16, 16, 14]
    assert note.read_text() == "160"


@pytest.mark.parametrize("content", ["", "many", "12.5"])
def test_a_note_that_is_altered_is_passed_over_and_replaced(tmp_path, content):
    note, batches = tmp_path / "batch-GPU", grow()
    note.write_text(content)
    batches.resume(note)
    assert run_on_device(100 * TOKEN, [10] * 10, batches) == [4, 4, 2]
    assert note.read_text() == "40"


def test_a_folder_that_cannot_be_written_ends_no_run(tmp_path):
    batches = grow()
    batches.resume(tmp_path / "missing" / "batch-GPU")
    assert run_on_device(100 * TOKEN, [10] * 4, batches) == [4]


def test_the_gauge_measures_what_a_computation_takes_of_what_was_free():
    with SimulatedCuda(memory=1000):
        held = torch.empty(200, dtype=torch.uint8, device=CUDA)
        gauge = MemoryGauge([CUDA])
        gauge.start()
        torch.empty(400, dtype=torch.uint8, device=CUDA)
        assert gauge.measure_share() == 0.5
        gauge.start()
        assert gauge.measure_share() == 0.0
        assert len(held) == 200


def test_devices_have_a_name_for_files(monkeypatch):
    names = {0: "NVIDIA H100 80GB HBM3", 1: "A/B", 2: "A/B"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[device.index])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 80 * 2**30))
    assert name_devices([torch.device("cuda", 0)]) == "NVIDIA-H100-80GB-HBM3-80GiB"
    assert name_devices([torch.device("cuda", i) for i in range(3)]) == "2x-A-B-80GiB+NVIDIA-H100-80GB-HBM3-80GiB"
