"""Endings: a job that is told to stop hears of it once, and is interrupted the second time."""

import errno
import os
import signal
import threading

import pytest

from tumble.endings import settle_names, stop_signal


def test_the_first_signal_is_heard_and_the_second_interrupts(capsys):
    before = signal.getsignal(signal.SIGTERM)
    with stop_signal("restart") as was_told:
        assert not was_told()
        signal.raise_signal(signal.SIGTERM)
        assert was_told()
        assert capsys.readouterr().err == "stopping: writing a restart first\n"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_thread_that_cannot_listen_leaves_signals_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with stop_signal("restart") as was_told:
            seen.append((was_told(), signal.getsignal(signal.SIGTERM) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, True)]


def test_a_file_system_that_syncs_no_folders_is_no_error_and_another_failure_is(tmp_path, monkeypatch):
    settle_names(tmp_path)
    numbers = [errno.EINVAL, errno.EIO]

    def refuse(handle):
        raise OSError(numbers[0], os.strerror(numbers[0]))

    monkeypatch.setattr(os, "fsync", refuse)
    settle_names(tmp_path)
    numbers.pop(0)
    with pytest.raises(OSError, match="Input/output error"):
        settle_names(tmp_path)
