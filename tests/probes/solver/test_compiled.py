"""Compiled code is kept, and never outlives the sources it came from."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba.core import event

from probes.solver.compiled import cache_folder, compiled, specialise
from tests.support.places import ROOT


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


def test_threads_that_call_first_at_the_same_time_share_one_compilation(monkeypatch):
    """Of a function and of the one that it calls, which is compiled once for Python and once for compiled code."""

    @compiled
    def double(x):
        return 2.0 * x

    @compiled
    def total_of_doubles(x):
        result = 0.0
        for i in range(len(x)):
            result += double(x[i])
        return result

    monkeypatch.setattr("probes.solver.compiled._own_cache_folder", lambda: None)
    barrier = threading.Barrier(8)

    def call(number):
        barrier.wait()
        return double(3.0) if number % 2 else total_of_doubles(np.ones(number + 1))

    with event.install_recorder("numba:compile") as recorder, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(call, range(8)))
    assert results == [2.0, 6.0, 6.0, 6.0, 10.0, 6.0, 14.0, 6.0]
    started = [seen.data["dispatcher"].py_func for _, seen in recorder.buffer if seen.is_start]
    assert sorted(function.__name__ for function in started) == ["double", "double", "total_of_doubles"]


def test_what_a_specialised_function_does_follows_the_type():
    def halved(x):
        raise NotImplementedError

    @specialise(halved)
    def _halved(x):
        if x.name == "int64":
            return lambda x: x // 2
        return lambda x: x / 2

    @compiled
    def halve(x):
        return halved(x)

    assert (halve(7), halve(7.0)) == (3, 3.5)


def test_numba_is_imported_by_the_first_call():
    program = """
import sys
import numpy as np
from probes.solver.rows import moments
assert "numba" not in sys.modules
moments(np.ones((4, 2), np.float32))
assert "numba" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_code_that_was_just_compiled_gives_the_bits_of_code_that_was_kept(tmp_path):
    """What compiled code calls is a part of it, not the first function of that name that this process has compiled."""
    program = f"""
import torch
from probes import fit_logistic
from probes.solver import compiled
compiled._own_cache_folder = lambda: {str(tmp_path)!r}
torch.set_num_threads(1)
for N, D, l2 in ((300, 96, 1.0), (500, 300, 100.0), (120, 300, 0.1), (250, 576, 10.0)):
    generator = torch.Generator().manual_seed(0)
    acts = torch.randn(2, N, D, generator=generator)
    acts[..., ::7] *= 30
    acts[..., 40] += 1000
    fit = fit_logistic(acts.bfloat16(), (acts[..., 1] > 0.2).long(), l2=l2)
    print(fit.weight.numpy().tobytes().hex())
"""
    command = [sys.executable, "-c", program]
    first, second = (subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout for _ in range(2))
    assert first == second
    assert list(tmp_path.rglob("*.nbc"))
