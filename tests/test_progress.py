import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from datamodules.progress import OPERATIONS, Speed, bar, duration, size


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.1, "1 s"), (59, "59 s"), (89, "89 s"), (90, "1.5 min"), (600, "10 min"), (5400, "1.5 h"), (86400, "24 h")],
)
def test_duration(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("n", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (2.5e6, "2 MB"), (1.26e9, "1.3 GB"), (7e12, "7000.0 GB")],
)
def test_size(n, words):
    assert size(n) == words


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
    assert speed.seconds(1, 1) == pytest.approx(products + small)
    assert speed.seconds(5000, 10) == pytest.approx(5000 * products + small)
    assert speed.seconds(10, 10, steps=3) == pytest.approx(3 * (10 * products + small))


def test_batches_are_read_and_then_written_token_by_token(speed):
    one = speed.seconds(8 * 20, 8)
    assert speed.of_batches(20, 8, 20) == pytest.approx(3 * one)
    assert speed.of_batches(20, 8, 20, steps=5) == pytest.approx(3 * (one + speed.seconds(8, 8, 5)))
    assert speed.of_batches(3, 8, 20) == pytest.approx(speed.seconds(3 * 20, 3))


def test_a_product_is_timed_on_this_machine():
    config = LlamaConfig(vocab_size=10, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    assert Speed(model.to_empty(device="cpu")).seconds(4, 2) > 0


def test_a_quiet_bar_shows_nothing(capsys):
    with bar("stage", 3, quiet=True) as advance:
        advance(3)
    assert capsys.readouterr() == ("", "")
    with bar("stage", 3, quiet=False) as advance:
        advance(3)
    assert "3/3" in capsys.readouterr().out
