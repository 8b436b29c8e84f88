"""The folder of a sweep belongs to one sweep at a time."""

import os

import pytest

from probes.jobs.sweep.sweep import lock_folder


def test_a_second_sweep_in_a_folder_is_refused_until_the_first_is_over(tmp_path):
    first = lock_folder(tmp_path)
    assert first is not None
    with pytest.raises(ValueError, match=r"^hydra\.sweep\.dir: expected a folder in which no sweep runs, got .*; wait"):
        lock_folder(tmp_path)
    os.close(first)
    again = lock_folder(tmp_path)
    assert again is not None
    os.close(again)
    assert not list(tmp_path.iterdir())
