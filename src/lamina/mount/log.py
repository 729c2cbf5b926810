"""The mount's log: one line an event, never data, never a raw control byte."""

import os
import sys
import time
from pathlib import Path

_BURST = 20
"""Lines written a second at most: a damaged disk must not fill the log's."""


def default_log_path() -> Path:
    """``/var/log/lamina/mount.log`` for root, else below ``$XDG_STATE_HOME`` (XDG base directory specification)."""
    if os.geteuid() == 0:
        return Path("/var/log/lamina/mount.log")
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state) / "lamina" / "mount.log"


def printable(text: str) -> str:
    """``text`` on one line, with control and undecodable characters as escapes."""
    if text.isprintable() and text.isascii():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class Log:
    """Appends lines to one file (several servers may share it); says nothing when the file cannot be written."""

    def __init__(self, path: Path | None, source: str, *, echo: bool = False) -> None:
        self._source = printable(source)
        self._echo = echo
        self._second = 0
        self._lines = 0
        self._left_out = 0
        self._fd = -1
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def line(self, text: str) -> None:
        """Append one line."""
        now = time.time()
        if int(now) != self._second:
            self._second, self._lines = int(now), 0
            if self._left_out:
                left_out, self._left_out = self._left_out, 0
                self._write(now, f"{left_out} more lines left out")
        self._lines += 1
        if self._lines > _BURST:
            self._left_out += 1
            return
        self._write(now, text)

    def traceback(self, text: str, error: BaseException) -> None:
        """Append a line and, indented below it, where ``error`` came from."""
        import traceback

        self.line(text)
        if self._lines <= _BURST:
            for part in traceback.format_exception(error):
                for line in part.rstrip().splitlines():
                    self._write(None, line)

    def _write(self, now: float | None, text: str) -> None:
        if now is None:
            line = "    " + printable(text) + "\n"
        else:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now))
            line = f"{stamp} mount[{os.getpid()}] {self._source}: {printable(text)}\n"
        data = line.encode("utf-8", "backslashreplace")
        try:
            if self._fd >= 0:
                os.write(self._fd, data)
            if self._echo:
                sys.stderr.buffer.write(data)
                sys.stderr.buffer.flush()
        except (OSError, ValueError):
            pass  # a full disk or a closed terminal must not end the mount

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
