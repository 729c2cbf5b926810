"""Another lamina, on another host by way of ssh(1) or here, spoken to through its standard input and output."""

import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from lamina.errors import SourceError
from lamina.pool.names import printable

_QUIET_SSH = ("-o", "Compression=no", "-o", "ServerAliveInterval=15")
"""What travels is compressed already; a link that is dead is noticed after three times so many seconds (ssh_config(5)).
"""
_MOST_SAID = 1 << 20
_PIPE_BYTES = 1 << 20
"""What a pipe is asked to hold: fewer switches between the two sides (pipe(7))."""


class RemoteLamina:
    """A lamina that runs elsewhere. ``requests`` is its standard input, ``answers`` its standard output."""

    def __init__(self, host: str | None, words: Sequence[str], ssh: str | None = None) -> None:
        """Run ``lamina WORDS``. ``host`` None: here, in a session of its own.

        ``ssh``: the command line to use, with its options; default ``LAMINA_SSH``, else ``ssh``. On the other side
        ``LAMINA_REMOTE`` (default ``lamina``) is run. Raises ``SourceError``.
        """
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in ``close``
        self._said = ""
        self.status: int | None = None
        """Exit status once it is closed."""
        command = _here(words) if host is None else _over_ssh(host, words, ssh)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                bufsize=1 << 20,
                env=_environment() if host is None else None,
                # Ctrl-C here must not end it half-way; ssh has to ask for passwords at the terminal.
                start_new_session=host is None,
            )
        except OSError as error:
            self._errors.close()
            raise SourceError(f"cannot run '{printable(command[0])}': {error.strerror}") from None
        assert self._process.stdin is not None and self._process.stdout is not None
        self.requests: IO[bytes] = self._process.stdin
        self.answers: IO[bytes] = self._process.stdout
        for stream in (self.requests, self.answers):
            _widen(stream)

    def complaint(self) -> str:
        """The last line that it, or ssh, has complained with; empty if it has not. Waits a little for it to end."""
        if not self._errors.closed:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(2)
            self._read_errors()
        lines = [line.strip() for line in self._said.splitlines() if line.strip()]
        return printable(lines[-1]) if lines else ""

    def close(self, patience: float = 5.0) -> None:
        """Let it end, and end it after ``patience`` seconds."""
        for stream in (self.requests, self.answers):
            with contextlib.suppress(OSError):
                stream.close()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if not self._errors.closed:
            self._read_errors()
            self._errors.close()
        self.status = self._process.returncode

    def _read_errors(self) -> None:
        self._errors.seek(0)
        self._said = self._errors.read(_MOST_SAID).decode("utf-8", "replace")


def _over_ssh(host: str, words: Sequence[str], ssh: str | None) -> list[str]:
    # ssh takes what begins with a dash for an option of its own, wherever it stands.
    if not host or host.startswith("-"):
        raise SourceError(f"'{printable(host)}' is no host: [user@]host is expected")
    remote = shlex.split(os.environ.get("LAMINA_REMOTE") or "lamina")
    chosen = ssh or os.environ.get("LAMINA_SSH")
    command = _split(chosen) if chosen else ["ssh", *_QUIET_SSH]
    # The other side's shell sees one line: every word of it is quoted.
    return [*command, host, shlex.join([*remote, *words])]


def _here(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-P", "-m", "lamina", *words]


def _environment() -> dict[str, str]:
    """Wherever this package was found, the child finds it too."""
    package = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), package]))}


def _split(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise SourceError(f"cannot run '{printable(command)}': {error}") from None
    if not words:
        raise SourceError("cannot run the ssh command: it is empty")
    return words


def _widen(stream: IO[bytes]) -> None:
    with contextlib.suppress(OSError, ImportError, AttributeError):
        import fcntl

        fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
