"""The life of a mount's server process: start, detach, serve, end."""

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import lamina.errors
from lamina.errors import Busy, LaminaError, MountError
from lamina.fs.types import ROOT_INO
from lamina.mount import control, mountinfo
from lamina.mount.data import DEFAULT_CACHE_BYTES
from lamina.mount.log import Log, default_log_path, printable
from lamina.mount.namespace import Namespace, Source, open_namespace
from lamina.mount.options import MountOptions
from lamina.mount.server import Server
from lamina.store.memory import keep_freed_memory

_DIRECTORY_MODE = 0o40555
_SWITCH_SECONDS = 0.0005
"""How long a decoding thread may keep the interpreter from the request loop (the default is 5 ms)."""


class MountJob:
    """One mount to be made and served."""

    def __init__(
        self,
        open_source: Callable[[], Source],
        source: str,
        mountpoint: str,
        options: MountOptions,
        *,
        whole_pool: bool = False,
        log_path: Path | None = None,
    ) -> None:
        self._open_source = open_source
        self._source = source
        self._mountpoint = mountpoint
        self._options = options
        self._whole_pool = whole_pool
        self._log_path = log_path
        self._ended = threading.Event()
        self._answered = False

    def run_detached(self) -> None:
        """Serve from a daemon; return once the mount answers. Raises what went wrong there."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            # From here on never return: the caller's frames, and what they hold, stay untouched below us.
            status = 1
            try:
                os.close(reader)
                gc.freeze()
                os.setsid()
                if os.fork():
                    status = 0
                else:
                    self._run_daemon(writer)
                    status = 0
            except BaseException as error:
                _tell(writer, error)
            finally:
                os._exit(status)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            os.waitpid(child, 0)
            _hear(pipe.read(), self._source)

    def _run_daemon(self, writer: int) -> None:
        os.chdir("/")
        os.umask(0o022)
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        # Not the caller's sockets, terminals and pool: its copies would hold them as long as the mount lives.
        os.closerange(3, writer)
        os.closerange(writer + 1, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") < 1 << 20 else 1 << 20)
        sys.stdin, sys.stdout, sys.stderr = (open(os.devnull, mode) for mode in ("r", "w", "w"))  # noqa: SIM115
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGALRM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _name_process()

        def ready() -> None:
            os.write(writer, b"ok")
            os.close(writer)

        self.run(ready, echo=False)

    def run(self, ready: Callable[[], None] | None = None, *, echo: bool = True) -> None:
        """Mount and serve in this process until unmounted; SIGTERM and Ctrl-C unmount."""
        source = self._open_source()
        try:
            namespace = open_namespace(source, self._source, whole_pool=self._whole_pool)
            log = Log(*self._log_file(), echo=echo)
            mode = _DIRECTORY_MODE if namespace.virtual_root else namespace.place(0).view.inode(ROOT_INO).mode
            fuse = control.attach(self._source, self._mountpoint, mode, self._options)
            try:
                self._serve(fuse, namespace, log, ready)
            finally:
                if not self._answered:
                    self._take_back()
                os.close(fuse)
                self._ended.set()
                log.close()
        finally:
            source.close()

    def _take_back(self) -> None:
        """Undo a mount that has never answered. (One that did stays, dead: better than the empty directory below.)"""
        try:
            control.detach(self._mountpoint, lazy=True)
        except LaminaError:
            pass  # the error that ended the server is the one to report

    def _log_file(self) -> tuple[Path | None, str]:
        path = self._log_path or default_log_path()
        try:
            Log(path, self._source).close()
        except OSError as error:
            if self._log_path is None:
                return None, self._source  # no home to write to: the mount is worth more than its log
            raise MountError(f"cannot open log file '{path}': {error.strerror}") from None
        return path, self._source

    def _serve(self, fuse: int, namespace: Namespace, log: Log, ready: Callable[[], None] | None) -> None:
        device = next((m.device for m in reversed(mountinfo.mounts()) if m.mountpoint == self._mountpoint), None)

        def answers() -> None:
            self._answered = True
            if device is not None:
                mountinfo.write_pid(device)
                control.raise_read_ahead(device, self._options.read_ahead_kib)
            if ready is not None:
                ready()

        cache = self._options.cache_mib
        server = Server(
            fuse,
            namespace,
            log,
            cache_bytes=DEFAULT_CACHE_BYTES if cache is None else cache << 20,
            posix_acl=self._options.posix_acl,
            on_ready=answers,
        )
        self._watch_signals(log)
        # Requests make no cycles worth a pass over everything that was imported.
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 50, 100)
        sys.setswitchinterval(_SWITCH_SECONDS)
        keep_freed_memory()
        try:
            server.serve()
        finally:
            if device is not None:
                mountinfo.remove_pid(device)

    def _watch_signals(self, log: Log) -> None:
        if threading.current_thread() is not threading.main_thread():
            return

        def stop(number: int, frame: object) -> None:
            # From a thread: the request loop must go on, since fusermount3 may look at the mount.
            threading.Thread(target=self._stop, args=(log,), daemon=True).start()

        signal.signal(signal.SIGTERM, stop)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, stop)

    def _stop(self, log: Log) -> None:
        try:
            control.detach(self._mountpoint)
        except Busy:
            log.line("unmounting at a signal although files are open")
            try:
                control.detach(self._mountpoint, lazy=True)
            except LaminaError as error:
                log.line(f"unmounting at a signal failed: {error}")
        except LaminaError as error:
            log.line(f"unmounting at a signal failed: {error}")
        if not self._ended.wait(2):
            # Somebody holds a file: the process ends all the same, and what is open there fails from now on.
            os._exit(0)


def _name_process() -> None:
    """Show up as ``lamina-mount`` in ps (prctl(2), PR_SET_NAME = 15)."""
    import ctypes

    ctypes.CDLL(None).prctl(15, b"lamina-mount", 0, 0, 0)


def _tell(writer: int, error: BaseException) -> None:
    """Report an error of the daemon to the process that waits for it."""
    kind = type(error).__name__ if isinstance(error, LaminaError) else ""
    text = str(error) if kind else f"{type(error).__name__}: {error}"
    try:
        os.write(writer, f"{kind}\n{text}".encode("utf-8", "backslashreplace")[:4096])
    except OSError:
        pass  # it already answered, and nobody listens any more


def _hear(message: bytes, source: str) -> None:
    if message == b"ok":
        return
    kind, _, text = message.decode("utf-8", "replace").partition("\n")
    known = getattr(lamina.errors, kind, None) if kind.isidentifier() else None
    if isinstance(known, type) and issubclass(known, LaminaError):
        raise known(text)
    raise MountError(f"cannot mount '{source}': the server ended: {printable(text) or 'without a message'}")
