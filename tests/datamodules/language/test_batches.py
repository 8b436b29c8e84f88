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


class RoomFor:
    """Memory for so many padded tokens; what a batch took is what was tried last."""

    def __init__(self, most):
        self.most, self.tried, self.watched = most, [], 0

    def watch(self):
        self.watched += 1

    def fits_twice(self):
        return 2 * self.tried[-1][0] * self.tried[-1][1] <= self.most


def run_growing(lengths, holds, told, start, grows=True):
    """Batches of up to 16 where memory holds `holds` tokens, and `told` as far as it tells; also what is remembered."""
    room, remembered = RoomFor(told), []
    batches = Batches(
        16, quiet=True, most=start, room=room if grows else None, remember=lambda *it: remembered.append(it)
    )

    def compute(batch):
        room.tried.append((len(batch), max(lengths[i] for i in batch)))
        if room.tried[-1][0] * room.tried[-1][1] > holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch

    done = [i for batch, _ in batches.run(range(len(lengths)), lengths, compute) for i in batch]
    assert sorted(done) == list(range(len(lengths)))
    assert bool(room.watched) == grows
    return [n for n, _ in room.tried], remembered


def test_batches_double_up_to_their_size_where_there_is_room():
    assert run_growing([10] * 60, 10**6, 10**6, 20) == ([2, 4, 8, 16, 16, 14], [(40, True), (80, True), (160, True)])
    assert run_growing([10] * 20, 10**6, 10**6, 160) == ([16, 4], [])
    assert run_growing([10] * 20, 10**6, 10**6, 20, grows=False) == ([2] * 10, [])


def test_batches_stop_growing_where_twice_the_last_would_not_fit():
    assert run_growing([10] * 22, 10**6, 79, 20) == ([2, 4, 4, 4, 4, 4], [(40, True)])


def test_a_batch_that_grew_too_far_halves_and_grows_no_more():
    sizes, remembered = run_growing([10] * 30, 79, 10**6, 20)
    assert sizes == [2, 4, 8, 4, 4, 4, 4, 4, 4]
    assert remembered == [(40, True), (80, True), (40, False)]


def test_growth_starts_from_one_example_where_nothing_is_thought_to_fit():
    assert run_growing([10] * 30, 10**6, 10**6, 0) == (
        [1, 2, 4, 8, 15],
        [(20, True), (40, True), (80, True), (160, True)],
    )


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
