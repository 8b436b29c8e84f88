import pytest
import torch

from datamodules.language.batches import Batches


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


def test_a_batch_too_large_is_halved_for_good_and_said_once(caplog):
    batches, tried = run(8, 3, [1] * 20)
    assert tried == [8, 4, 2] + [2] * 9
    assert sorted(i for batch, _ in batches for i in batch) == list(range(100, 120))
    assert [r.message for r in caplog.records] == ["out of memory with 8 examples a batch: going on with fewer"]


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
    with pytest.raises(ValueError, match="memory for one example of up to 7 tokens, got out of memory; choose"):
        run(4, 0, [7, 3])
