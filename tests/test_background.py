"""Work of which only the newest matters: the last is done, what is old is left out, and errors are raised once."""

import threading

import pytest

from ddpm_jax.runtime.background import Newest


def test_of_those_that_wait_only_the_newest_is_run():
    work, begun, held, done = Newest("test"), threading.Event(), threading.Event(), []
    work.run(lambda: (begun.set(), done.append(held.wait(10))))
    assert begun.wait(10)
    for number in range(5):
        work.run(lambda number=number: done.append(number))
    assert done == []  # `run` has not waited
    held.set()
    work.wait()
    assert done == [True, 4]
    work.run(lambda: done.append("later"))
    work.wait()
    work.wait()
    assert done == [True, 4, "later"]


def test_the_first_error_is_raised_once_and_the_thread_goes_on():
    work, done = Newest("test"), []

    def fail(message):
        raise OSError(message)

    for message in ("first", "second"):
        work.run(lambda message=message: fail(message))
        while work._running:
            pass
    work.run(lambda: done.append(1))
    with pytest.raises(OSError, match="first"):
        work.wait()
    work.wait()
    assert done == [1]
