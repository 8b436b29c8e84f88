"""When a job of a sweep counts as one that was done before."""

from hydra import compose, initialize_config_dir

import train
from probes.jobs.sweep.job import digest

GATHERED = ["site.also=[mlp_out,z]", "positions.also=[{name:first,of:answer,at:0}]", "site.also_layers=[0,4]"]


def test_what_the_other_jobs_of_a_sweep_add_makes_no_other_job():
    with initialize_config_dir(str(train.CONF), version_base="1.3"):
        alone = digest(compose("config", []))
        assert digest(compose("config", [*GATHERED, "report.terminal=line", "resume=true"])) == alone
        others = [digest(compose("config", [one])) for one in ("site=z", "site.layers=[0]", "probe.l2=3")]
    assert len({alone, *others}) == 4
