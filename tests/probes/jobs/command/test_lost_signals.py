"""Signals that come while Python finalises an object, where it drops what is raised."""

import gc
import signal
import sys
import time
import weakref

import pytest

from probes.jobs.command.mistakes import stop_at_mistakes
from probes.jobs.command.signals import end_at_signals, tell_end


class Finalised:
    itself: "Finalised"

    def __init__(self, number):
        self.number = number

    def __del__(self):
        signal.raise_signal(self.number)


def drop_generator(number):
    def generate():
        try:
            yield
        finally:
            signal.raise_signal(number)

    generator = generate()
    next(generator)
    del generator


def drop_object(number):
    Finalised(number)


def drop_cycle(number):
    one = Finalised(number)
    one.itself = one
    del one
    gc.collect()


def drop_referenced(number):
    one = type("Referenced", (), {})()
    weakref.finalize(one, signal.raise_signal, number)
    del one


@pytest.fixture
def _ctrl_c():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background ignore it
    yield
    signal.signal(signal.SIGINT, before)


def end_after(work):
    """Do some work and go on, far longer than a signal takes."""
    with end_at_signals():
        work()
        for _ in range(3000):
            time.sleep(0.01)


@pytest.mark.usefixtures("_ctrl_c")
@pytest.mark.parametrize("drop", [drop_generator, drop_object, drop_cycle, drop_referenced])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_a_finaliser_loses_ends_the_program_all_the_same(drop, number, status, capsys):
    before, handlers = sys.unraisablehook, [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(SystemExit) as ended:
        end_after(lambda: drop(number))
    assert ended.value.code == status
    assert capsys.readouterr().err == f"{tell_end(number)}\n"
    assert sys.unraisablehook is before
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.usefixtures("_ctrl_c")
def test_other_errors_of_finalisers_are_shown_as_ever(monkeypatch):
    class Odd:
        def __del__(self):
            raise RuntimeError("odd")

    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: shown.append(str(dropped.exc_value)))
    with end_at_signals():
        Odd()
    assert shown == ["odd"]


@pytest.mark.usefixtures("_ctrl_c")
def test_lightning_s_answer_to_ctrl_c_is_none_of_success_or_failure(capsys):
    """It catches the interrupt, ignores SIGINT from then on, and exits with status 1."""

    def exit_as_lightning():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            sys.exit(1)

    with pytest.raises(SystemExit) as ended:
        end_after(exit_as_lightning)
    assert ended.value.code == 130
    assert capsys.readouterr().err == f"{tell_end(signal.SIGINT)}\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("_ctrl_c")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("error", [TypeError, ValueError])
def test_a_signal_that_a_library_takes_for_an_error_of_its_own(number, status, error, capsys):
    """As a comparison in numpy does; a ValueError would else be told as a mistake."""

    def compare():
        with stop_at_mistakes():
            try:
                signal.raise_signal(number)
            except BaseException:
                raise error("Cannot compare") from None

    with pytest.raises(SystemExit) as ended:
        end_after(compare)
    assert ended.value.code == status
    assert capsys.readouterr().err == f"{tell_end(number)}\n"
    with pytest.raises(error, match="of the next run"), end_at_signals():
        raise error("of the next run")
