"""Random weights as a control: the same architecture, other activations, the trained model's answers."""

import re
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from datamodules.language.checkpoint import RANDOM_SEED
from datamodules.language.language_model import LanguageModel
from tests.support.activations import make, table_of


@pytest.fixture
def random(language_model):
    return replace(language_model, random_weights=True)


def test_weights_are_those_that_a_seed_initialises_each_time(random, language_model):
    state = torch.get_rng_state()
    network, again, trained = random.load("cpu"), random.load("cpu"), language_model.load("cpu")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(RANDOM_SEED)
    expected = AutoModelForCausalLM.from_config(random.load_config(), dtype=torch.float32)
    torch.set_rng_state(state)
    assert type(network) is type(trained)
    assert not network.training
    for (name, weight), one, two, other in zip(
        network.named_parameters(), again.parameters(), expected.parameters(), trained.parameters(), strict=True
    ):
        assert torch.equal(weight, one)
        assert torch.equal(weight, two)
        assert weight.shape == other.shape
        assert not weight.requires_grad
        if weight.ndim == 2:
            assert not torch.equal(weight, other)
            assert 0.8 < weight.std() / random.load_config().initializer_range < 1.2, name
    assert type(random.load("cpu", head=False)) is type(network.model)


def test_only_the_activations_come_from_them(random, language_model, questions_csv, tmp_path):
    """Oracle: the hidden states of the random network over what the trained one answered."""
    trained, control = (
        make(model, questions_csv, tmp_path / "cache", folder=tmp_path / name, layers=[1])
        for name, model in (("trained", language_model), ("random", random))
    )
    trained.setup()
    control.setup()
    assert table_of(control) == table_of(trained)
    assert trained.card is not None
    assert control.card is not None
    assert control.card.model == f"{language_model.name}, random weights"
    assert control.card.cache["answers"] == trained.card.cache["answers"]
    assert control.card.cache["activations"] != trained.card.cache["activations"]
    same, other = dict(trained.card.identity or {}), dict(control.card.identity or {})
    assert same.pop("weights") != other.pop("weights")
    assert same == other
    assert replace(control.card, model=trained.card.model, cache={}, identity={}) == replace(
        trained.card, cache={}, identity={}
    )
    acts = [next(iter(one.test_dataloader()))["acts"] for one in (trained, control)]
    assert not torch.equal(*acts)
    network, (block, *_) = random.load("cpu"), list(control.test_dataloader())
    for i in (0, 5):
        row = table_of(control)[block["examples"][i]]
        ids = torch.tensor([row["prompt_ids"] + row["answer_ids"]])
        states = network(ids, output_hidden_states=True).hidden_states[2][0]
        for t in range(15):
            if row["valid"][t]:
                expected = states[row["first_token"][t]]
                torch.testing.assert_close(block["acts"][t, i].float(), expected, rtol=2**-7, atol=1e-3)


def test_their_key_has_no_adapter_and_the_trained_one_is_as_before(random, language_model):
    assert random.identify() == language_model.identify() | {"random_weights": True}
    assert random.trained == language_model


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"device_map": "auto"}, "device_map"),
        ({"tp_plan": "auto"}, "tp_plan"),
        ({"quantisation": {"load_in_4bit": True}}, "quantisation"),
    ],
)
def test_what_would_not_hold_them_whole_is_refused(changes, key, tiny_model):
    line = f"model.random_weights: expected weights made whole on one device, got model.{key} too; leave it null, or"
    with pytest.raises(ValueError, match=re.escape(line)):
        LanguageModel(str(tiny_model), random_weights=True, **changes)
