import gc

import pytest

from probes.jobs.collector import pause_collection


@pytest.fixture(autouse=True)
def collecting():
    """The collector as Python starts with it, and afterwards as it was."""
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.enable()
    if frozen:
        gc.freeze()


def test_the_collector_rests_and_then_leaves_alone_what_came():
    with pause_collection():
        assert not gc.isenabled()
        kept = [[] for _ in range(1_000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() > len(kept)


def test_an_error_wakes_the_collector():
    with pytest.raises(ValueError, match="a mistake"), pause_collection():
        raise ValueError("a mistake")
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0  # what its traceback holds can go


def test_a_later_job_freezes_nothing_more():
    gc.freeze()
    before = gc.get_freeze_count()
    with pause_collection():
        assert gc.isenabled()
        kept = [[] for _ in range(1_000)]
    assert gc.get_freeze_count() <= before
    del kept


def test_a_collector_that_is_off_stays_off():
    gc.disable()
    with pause_collection():
        assert not gc.isenabled()
    assert not gc.isenabled()
    assert gc.get_freeze_count() == 0
