"""Functions in processes of their own, by fork: no time to start, nothing imported anew, killed without ceremony."""

import os
import pickle
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class Child:
    """A running function."""

    pid: int
    pipe: int

    def result(self, timeout: float = 60.0) -> Any:
        """Wait for it, but not for ever; what it returned. Raises its error."""
        data = b""
        ends = time.monotonic() + timeout
        while True:
            if not select.select([self.pipe], [], [], max(ends - time.monotonic(), 0.0))[0]:
                self.kill()
                raise TimeoutError(f"the process hangs: it was still there after {timeout} s")
            if not (part := os.read(self.pipe, 1 << 16)):
                break
            data += part
        os.close(self.pipe)
        _, status = os.waitpid(self.pid, 0)
        assert data, f"the process ended without a result, status {status:#x}"
        kind, value = pickle.loads(data)
        if kind == "error":
            raise value
        return value

    def kill(self) -> bool:
        """Kill it at once; whether it was still running."""
        os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pipe)
        return os.WIFSIGNALED(status)

    def died(self) -> int:
        """Wait for it to be ended by a signal; which."""
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pipe)
        assert os.WIFSIGNALED(status), f"status {status:#x}"
        return os.WTERMSIG(status)

    def wait_ready(self) -> None:
        """Until the function has called the ``ready`` that it was given."""
        assert os.read(self.pipe, 1) == b"!"


def run(function: Callable[..., Any], *arguments: Any, ready: bool = False) -> Child:
    """Call ``function`` in a child; with ``ready``, its first argument is a function to call when it begins."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(writing)
        return Child(pid, reading)
    status = 1
    try:
        os.close(reading)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        first = (lambda: os.write(writing, b"!"),) if ready else ()
        try:
            outcome = ("value", function(*first, *arguments))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                error = RuntimeError("interrupted")  # raised where its result is asked for, it would end all tests
            error.add_note(traceback.format_exc())
            outcome = ("error", error)
        data = pickle.dumps(outcome)
        while data:
            data = data[os.write(writing, data) :]
        status = 0
    finally:
        os._exit(status)
