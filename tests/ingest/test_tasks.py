"""Threads whose callers help."""

import threading
import time

import pytest

from lamina.ingest.tasks import Stopped, Workers


def test_everything_runs_once() -> None:
    done: list[int] = []
    workers = Workers(3)
    for number in range(500):
        workers.submit(done.append, number, queued=5, long=number % 3 == 0)
    workers.drain()
    assert sorted(done) == list(range(500))
    workers.close()


def test_results_and_errors_of_urgent_tasks() -> None:
    workers = Workers(2)
    tasks = [workers.submit_urgent(pow, number, 2) for number in range(50)]
    assert [task.result() for task in tasks] == [number**2 for number in range(50)]
    with pytest.raises(ZeroDivisionError):
        workers.submit_urgent(divmod, 1, 0).result()
    workers.close()


def test_a_task_may_wait_for_tasks_without_a_free_thread() -> None:
    """With one thread, whose long task asks for urgent ones: who waits runs them."""
    workers = Workers(1)
    sums: list[int] = []

    def long(number: int) -> None:
        parts = [workers.submit_urgent(pow, number, power) for power in range(20)]
        sums.append(sum(part.result() for part in parts))

    for number in range(2, 12):
        workers.submit(long, number, queued=2, long=True)
    workers.drain()
    assert sorted(sums) == [sum(number**power for power in range(20)) for number in range(2, 12)]
    workers.close()


def test_the_queue_is_bounded() -> None:
    workers = Workers(1)
    most = 0
    waiting = 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal waiting
        time.sleep(0.001)
        with lock:
            waiting -= 1

    for _ in range(200):
        with lock:
            waiting += 1
            most = max(most, waiting)
        workers.submit(work, queued=4)
    workers.drain()
    assert most <= 4 + 3
    workers.close()


def test_an_error_comes_out_at_the_next_call_and_ends_long_tasks() -> None:
    workers = Workers(2)
    begun, ended = threading.Event(), threading.Event()

    def long() -> None:
        begun.set()
        try:
            while True:
                time.sleep(0.001)
                workers.check()
        finally:
            ended.set()

    workers.submit(long, queued=5, long=True)
    assert begun.wait(10)
    workers.submit(divmod, 1, 0, queued=5)
    with pytest.raises(ZeroDivisionError):
        for _ in range(2000):
            workers.submit(time.sleep, 0.001, queued=5)
    with pytest.raises(ZeroDivisionError):
        workers.drain()
    workers.close()
    assert ended.is_set()


def test_close_drops_what_has_not_begun_and_stops_what_runs() -> None:
    workers = Workers(1)
    begun = threading.Event()
    caught: list[BaseException] = []
    done: list[int] = []

    def long() -> None:
        begun.set()
        try:
            while True:
                time.sleep(0.001)
                workers.check()
        except Stopped as error:
            caught.append(error)
            raise

    workers.submit(long, queued=100)
    begun.wait(10)
    for number in range(50):
        workers.submit(done.append, number, queued=100)
    before = threading.active_count()
    workers.close()
    assert len(caught) == 1 and done == []
    assert threading.active_count() == before - 1


def test_a_result_is_not_kept() -> None:
    """A compressed chunk must not live as long as its place in the queue."""
    workers = Workers(1)
    gate = threading.Event()
    workers.submit(gate.wait, queued=5)
    task = workers.submit_urgent(bytes, 1000)
    assert task.result() == bytes(1000)
    assert task._result is None and task._arguments == ()
    gate.set()
    workers.close()
