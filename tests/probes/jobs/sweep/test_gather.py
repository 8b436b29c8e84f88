"""What the jobs of a sweep are given to capture for each other."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import train
from probes.jobs.sweep.gather import gather
from probes.jobs.sweep.naming import find_swept, take_first


def gathered(*given):
    """Values of what is gathered, by key."""
    with initialize_config_dir(str(train.CONF), version_base="1.3"):
        config = compose("config", take_first(given), return_hydra_config=True)
        shared = gather(config, given, find_swept(given))
        own = compose("config", [*take_first(given), *shared])
    keys = [one.partition("=")[0] for one in shared]
    return {key: OmegaConf.to_container(OmegaConf.select(own, key)) for key in keys}


@pytest.mark.parametrize(
    ("given", "shared"),
    [
        (["site=z,mlp_out"], {"site.also": ["z", "mlp_out"]}),
        (["site.layers=[4],[0,4],[2]"], {"site.also_layers": [0, 2, 4]}),
        (["site.layers=[4],null"], {}),
        (["site.name=z,foo,mlp_out"], {"site.also": ["z", "mlp_out"]}),  # foo is refused by its own job
        (["site.name=z,foo"], {}),
        (["positions.rules=[{name:a,of:answr,at:0}],[{name:b,of:answer,at:0}]"], {}),
        (["site.layers=[4],[0]", "site.also_layers=[]"], {}),
    ],
)
def test_what_is_gathered(given, shared):
    assert gathered(*given) == shared


def test_rules_of_all_lists_are_gathered_once():
    first, second = "[{name:a,of:answer,at:0}]", "[{name:a,of:answer,at:0},{name:b,of:answer,at:1}]"
    rules = [{"name": "a", "of": "answer", "at": 0}, {"name": "b", "of": "answer", "at": 1}]
    assert gathered(f"positions.rules={first},{second}") == {"positions.also": rules}
