import logging

import pytest
import torch
from rich.progress import Progress
from transformers import LlamaConfig, LlamaForCausalLM

from datamodules.language.progress import (
    OPERATIONS,
    Speed,
    TimeLeft,
    TimeLeftColumn,
    format_duration,
    format_rate,
    format_size,
    show_bar,
)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.1, "1 s"), (59, "59 s"), (89, "89 s"), (90, "1.5 min"), (600, "10 min"), (5400, "1.5 h"), (86400, "24 h")],
)
def test_duration(seconds, words):
    assert format_duration(seconds) == words


@pytest.mark.parametrize(
    ("n", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (2.5e6, "2 MB"), (1.26e9, "1.3 GB"), (7e12, "7000.0 GB")],
)
def test_size(n, words):
    assert format_size(n) == words


@pytest.fixture
def speed(monkeypatch):
    """A product of one row takes a millisecond, and a small operation a microsecond."""
    config = LlamaConfig(
        vocab_size=1000, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    )  # fmt: skip
    made = Speed(LlamaForCausalLM(config))
    monkeypatch.setattr(made, "_time", lambda rows: 1e-3 * rows or 1e-6)
    return made


def test_a_pass_takes_its_products_and_small_operations(speed):
    """Weights by hand: attention 4 D^2 and feed-forward 3 x 2 D^2 a block, norms, and the head over the vocabulary."""
    weights = 2 * (4 * 32**2 + 6 * 32**2 + 2 * 32) + 32 + 1000 * 32
    products, small = weights / (4 * 32**2) * 1e-3, 2 * OPERATIONS * 1e-6
    assert speed.estimate(1, 1) == pytest.approx(products + small)
    assert speed.estimate(5000, 10) == pytest.approx(5000 * products + small)
    assert speed.estimate(10, 10, steps=3) == pytest.approx(3 * (10 * products + small))


def test_batches_are_read_and_then_written_token_by_token(speed):
    one = speed.estimate(8 * 20, 8)
    assert speed.estimate_batches(20, 8, 20) == pytest.approx(3 * one)
    assert speed.estimate_batches(20, 8, 20, steps=5) == pytest.approx(3 * (one + speed.estimate(8, 8, 5)))
    assert speed.estimate_batches(3, 8, 20) == pytest.approx(speed.estimate(3 * 20, 3))


def test_a_product_is_timed_on_this_machine():
    config = LlamaConfig(vocab_size=10, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    assert Speed(model.to_empty(device="cpu")).estimate(4, 2) > 0


def test_a_quiet_bar_shows_nothing(capsys):
    with show_bar("stage", 3, quiet=True, expected=1) as advance:
        advance(3, 3)
    assert capsys.readouterr() == ("", "")
    with show_bar("stage", 3, quiet=False, expected=1) as advance:
        advance(3, 3)
    shown = capsys.readouterr().out
    assert "3/3" in shown
    assert "in 1 s" in shown


@pytest.mark.parametrize(("each_second", "words"), [(12.4, "12/s"), (1, "1/s"), (0.5, "30/min"), (0.02, "1/min")])
def test_rate(each_second, words):
    assert format_rate(each_second) == words


class Clock:
    """A clock that is put forward by hand."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def simulate(total, expected, batches):
    """Run batches of (work, seconds); gives the estimator and, after each, the share done, time left and the truth."""
    clock = Clock()
    left = TimeLeft(total, expected, clock)
    ends = sum(seconds for _, seconds in batches) + clock.now
    rows = []
    for work, seconds in batches:
        clock.now += seconds
        left.advance(work)
        rows.append((left.done / total, left.estimate(), ends - clock.now))
    return left, rows


def test_time_left_starts_with_the_estimate_and_counts_down():
    clock = Clock()
    left = TimeLeft(100, 60, clock)
    assert left.estimate() == pytest.approx(60)
    clock.now += 20
    assert left.estimate() == pytest.approx(40)
    clock.now += 180  # a first batch that takes longer than everything was thought to take
    assert left.estimate() == pytest.approx(200 / 4)
    left.advance(10)
    assert left.estimate() == pytest.approx(9 * 200)
    left.advance(90)
    assert left.estimate() == 0


@pytest.mark.parametrize("wrong", [0.1, 1, 10])
@pytest.mark.parametrize("seconds", [0.1, 1, 20, 300])
def test_time_left_converges_to_the_measured_speed(seconds, wrong):
    """Sixty batches, the estimate up to ten times off: right within 20% after a tenth of the work, or 6 s."""
    _, rows = simulate(60 * 32, 60 * seconds * wrong, [(32, seconds)] * 60)
    judged = [(left, truth) for (done, left, truth) in rows[:-1] if done >= 0.1 and 60 * seconds - truth >= 6]
    assert seconds * 60 == 6 or judged
    for left, truth in judged:
        assert left == pytest.approx(truth, rel=0.2)


def test_time_left_follows_a_machine_that_gets_busy_and_idle_again():
    """1 s a batch, 10 s in the middle, 1 s again: right within 20% once a fifteenth of the work is done at a speed."""
    batches = [(32, 1.0)] * 300 + [(32, 10.0)] * 300 + [(32, 1.0)] * 900
    for start, stop in ((0, 300), (300, 600), (600, 1500)):
        _, rows = simulate(32 * stop, 60, batches[:stop])  # as if nothing changed any more
        for _, left, truth in rows[start + 100 : -1]:
            assert left == pytest.approx(truth, rel=0.2)
    # What is shown moves towards the new speed at once.
    _, rows = simulate(32 * 1500, 60, batches)
    assert rows[310][1] > 2 * rows[299][1]
    assert rows[640][1] < rows[599][1] / 3


def test_batches_that_get_longer_within_a_shard_count_by_what_they_cost():
    """Shards of eight batches, shortest first, twice as long at the end as at the beginning, the time as the cost."""
    costs = [8.0 + i for i in range(8)] * 5
    _, rows = simulate(sum(costs), 10, [(cost, cost / 4) for cost in costs])
    for _, left, truth in rows[2:-1]:
        assert left == pytest.approx(truth, rel=0.02)
    counted, _ = simulate(40, 10, [(1, cost / 4) for cost in costs[:3]])
    assert counted.estimate() < 0.85 * sum(costs[3:]) / 4  # counting batches alone tells too little


def test_a_slow_first_batch_counts_until_there_is_a_second():
    _, rows = simulate(100, 10, [(1, 30.0), *[(1, 0.1)] * 99])
    assert rows[0][1] == pytest.approx(99 * 30, rel=0.01)
    assert rows[1][1] == pytest.approx(98 * 0.1, rel=0.01)


def test_shards_that_other_processes_made_come_at_once():
    """Two processes: eight batches of one's own, then as much of another's in no time."""
    shard = [(32, 2.0)] * 8 + [(256, 0.0)]
    _, rows = simulate(20 * 512, 1000, shard * 20)
    for share, left, truth in rows[20::9]:
        assert share < 1
        assert left == pytest.approx(truth, rel=0.35)


def test_no_work_and_no_estimate_are_no_trouble():
    left = TimeLeft(0, 0, Clock())
    left.advance(0)
    assert (left.estimate(), left.check_change()) == (0, None)
    left = TimeLeft(10, 0, Clock())
    left.advance(20)
    assert left.estimate() == 0


def changes(total, expected, batches):
    clock = Clock()
    left = TimeLeft(total, expected, clock)
    told = []
    for work, seconds in batches:
        clock.now += seconds
        left.advance(work)
        found = left.check_change()
        if found:
            told.append((left.done, *found))
    return told


def test_a_wrong_estimate_is_corrected_once():
    ((done, left, said),) = changes(1920, 60, [(32, 12.0)] * 60)  # 12 min instead of 1
    assert (done, said) == (64, pytest.approx(58))
    assert left == pytest.approx(58 * 12, rel=0.01)
    ((done, left, said),) = changes(1920, 7200, [(32, 12.0)] * 60)  # 12 min instead of 2 hours
    assert (done, said) == (64, pytest.approx(58 * 120))
    assert left == pytest.approx(58 * 12, rel=0.01)


def test_a_correction_is_corrected_when_it_doubles_again():
    told = changes(6400, 200, [(32, 3.0)] * 20 + [(32, 30.0)] * 180)
    assert len(told) == 3
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert told[0][0] == 64
    assert told[-1][1] > 2 * told[0][1]


@pytest.mark.parametrize(
    ("total", "expected", "batches"),
    [
        (1920, 720, [(32, 12.0)] * 60),  # right
        (1920, 400, [(32, 12.0)] * 60),  # less than twice
        (60, 1, [(1, 0.2)] * 60),  # a matter of seconds
        (10, 1, [(1, 4.0)]),  # too early
        (100, 10, [(1, 20.0)]),  # the first batch alone, which may be slow for other reasons
        (100, 10, [(1, 20.0), *[(1, 0.1)] * 99]),
    ],
)
def test_nothing_is_said_without_need(total, expected, batches):
    assert changes(total, expected, batches) == []


def test_one_line_says_how_long_it_takes_now(monkeypatch, caplog):
    clock = Clock()
    monkeypatch.setattr(
        "datamodules.language.progress.TimeLeft", lambda total, expected: TimeLeft(total, expected, clock)
    )
    for quiet, lines in (
        (True, []),
        (
            False,
            ["answers: going slower than estimated: 64 of 2,000 done, about 12 min left instead of 58 s"],
        ),
    ):
        caplog.clear()
        with (
            caplog.at_level(logging.INFO, "datamodules.language.progress"),
            show_bar("answers", 2000, quiet, 60) as advance,
        ):
            for _ in range(10):
                clock.now += 12
                advance(32, 32)
        assert caplog.messages == lines


def test_the_bar_always_shows_a_time():
    clock, shown = Clock(), []
    left = TimeLeft(100, 600, clock)
    with Progress(TimeLeftColumn(), disable=True) as progress:
        progress.add_task("stage", total=100, left=left)
        (task,) = progress.tasks
        column = TimeLeftColumn()
        for _ in range(4):
            shown.append(column.render(task).plain)
            clock.now += 60
            left.advance(25)
            progress.advance(task.id, 25)
    assert shown == ["10 min left", "3.0 min left", "2.0 min left", "60 s left"]
    assert column.render(task).plain == "in 1 s"


def test_an_estimate_takes_what_memory_there_is(language_model, monkeypatch):
    """Weights that nearly fill a GPU leave no room for the product that is timed."""
    speed = Speed(language_model.load("cpu"))
    tried = []

    def time_product(rows):
        tried.append(rows)
        if rows > 300:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return rows / 1000

    monkeypatch.setattr(speed, "_time", time_product)
    each = speed.weights / (4 * 32**2) / 1000  # seconds a token
    assert speed.estimate(tokens=5000, batch=4) == pytest.approx(5000 * each)
    assert tried == [2048, 1024, 512, 256, 0]
    monkeypatch.setattr(speed, "_time", lambda rows: 1 / 0 if rows == 0 else time_product(rows + 300))
    with pytest.raises(ZeroDivisionError):  # other errors are not passed over
        speed.estimate(tokens=5000, batch=4)
