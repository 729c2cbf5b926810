"""A small pool of threads whose callers help: whoever waits for a task that has not begun runs it.

So a task may wait for tasks without ever dead-locking, and what is queued stays bounded without idle cores.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any


class Stopped(Exception):
    """The import that a task belongs to has ended before it."""


class Task:
    """One call, its result or error."""

    __slots__ = ("_arguments", "_claimed", "_done", "_error", "_function", "_result")

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._function = function
        self._arguments = arguments
        self._claimed = threading.Lock()
        self._done = threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self) -> bool:
        """Run it unless somebody does already."""
        if not self._claimed.acquire(blocking=False):
            return False
        try:
            self._result = self._function(*self._arguments)
        except BaseException as error:
            self._error = error
        finally:
            self._arguments = ()
            self._done.set()
        return True

    def result(self) -> Any:
        """The result, after running it here if nobody has begun; raises its error. To be asked for once."""
        if not self.run():
            self._done.wait()
        if self._error is not None:
            raise self._error
        # A task that was run here still stands in the queue: what it made must not.
        result, self._result = self._result, None
        return result


class Workers:
    """Threads that run tasks: urgent ones (somebody waits) first, then short, then long ones, each in order."""

    def __init__(self, threads: int) -> None:
        self._urgent: deque[Task] = deque()
        self._short: deque[Task] = deque()
        self._long: deque[Task] = deque()
        self._ready = threading.Condition()
        self._closed = False
        self._running: set[Task] = set()
        self._error: BaseException | None = None
        self._threads = [threading.Thread(target=self._loop, name=f"import-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit_urgent(self, function: Callable[..., Any], *arguments: Any) -> Task:
        """A task whose result the caller will take."""
        task = Task(function, arguments)
        with self._ready:
            self._urgent.append(task)
            self._ready.notify()
        return task

    def submit(self, function: Callable[..., Any], *arguments: Any, queued: int, long: bool = False) -> None:
        """A task whose result nobody takes; helps first while more than ``queued`` of its kind wait.

        Raises earlier errors.
        """
        self.check()
        queue = self._long if long else self._short
        while len(queue) > queued:
            task = self._take()
            if task is not None:
                self._run(task)
            self.check()
        with self._ready:
            queue.append(Task(function, arguments))
            self._ready.notify()

    def check(self) -> None:
        """Raise the first error of a task that nobody waits for; ``Stopped`` after ``close``."""
        if self._error is not None:
            raise self._error
        if self._closed:
            raise Stopped

    def drain(self) -> None:
        """Help until every task is done."""
        while True:
            self.check()
            task = self._take()
            if task is not None:
                self._run(task)
                continue
            with self._ready:
                if not self._running and not any(self._queues()):
                    break
                self._ready.wait(0.05)
        self.check()

    def help_until(self, done: Callable[[], bool]) -> None:
        """Help until ``done`` says that some tasks are, whatever others there are. Raises earlier errors."""
        while not done():
            self.check()
            task = self._take()
            if task is not None:
                self._run(task)
                continue
            with self._ready:
                if not done():
                    self._ready.wait(0.05)
        self.check()

    def close(self) -> None:
        """Stop: what has not begun is dropped, what runs is waited for; long tasks ask ``check`` as they go."""
        with self._ready:
            self._closed = True
            for queue in self._queues():
                queue.clear()
            self._ready.notify_all()
        for thread in self._threads:
            thread.join()

    def _take(self) -> Task | None:
        with self._ready:
            for queue in self._queues():
                if queue:
                    task = queue.popleft()
                    self._running.add(task)
                    return task
            return None

    def _queues(self) -> tuple[deque[Task], ...]:
        return self._urgent, self._short, self._long

    def _run(self, task: Task) -> None:
        task.run()
        with self._ready:
            self._running.discard(task)
            if task._error is not None and self._error is None:
                self._error = task._error
            self._ready.notify_all()

    def _loop(self) -> None:
        while True:
            with self._ready:
                while not any(self._queues()) and not self._closed:
                    self._ready.wait()
                if self._closed:
                    return
            task = self._take()
            if task is not None:
                self._run(task)
