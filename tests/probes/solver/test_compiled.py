"""Compiled code is kept, and never outlives the sources it came from."""

import numpy as np

from probes.solver.compiled import cache_folder, compiled


def test_the_folder_is_named_by_the_sources_that_are_compiled(tmp_path):
    (tmp_path / "a.py").write_text("@compiled\ndef f(): return 1")
    (tmp_path / "b.py").write_text("x = 1")
    before = cache_folder(tmp_path)
    assert before is not None
    (tmp_path / "b.py").write_text("x = 2")
    assert cache_folder(tmp_path) == before
    (tmp_path / "a.py").write_text("@compiled\ndef f(): return 2")
    assert cache_folder(tmp_path) != before


def test_nothing_is_kept_where_nothing_can_be_written(tmp_path):
    (tmp_path / "__pycache__").write_text("a file where the folder would be")
    assert cache_folder(tmp_path) is None


def test_infinity_and_nan_keep_their_meaning():
    @compiled
    def total(x):
        result = 0.0
        for i in range(len(x)):
            result += x[i]
        return result

    assert total(np.ones(1000)) == 1000
    assert total(np.array([1.0, np.inf])) == np.inf
    assert np.isnan(total(np.array([np.inf, -np.inf])))
