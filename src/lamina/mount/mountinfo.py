"""Which lamina mounts there are: ``/proc/self/mountinfo`` (proc(5)) and the servers' process numbers."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

FSTYPE = "fuse.lamina"
_MOUNTINFO = "/proc/self/mountinfo"
_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(slots=True, frozen=True)
class Mount:
    """One mount. ``source`` is a snapshot, a dataset or a pool; ``pid`` its server, where that is known."""

    source: str
    mountpoint: str
    options: str
    pid: int | None
    device: str
    """``major:minor`` of ``st_dev``."""


def mounts() -> list[Mount]:
    """All lamina mounts that this process sees, in the order they were made."""
    with open(_MOUNTINFO, "rb") as file:
        return parse_mountinfo(file.read())


def parse_mountinfo(text: bytes) -> list[Mount]:
    """The lamina mounts in the text of ``/proc/PID/mountinfo``."""
    found = []
    for line in text.splitlines():
        if FSTYPE.encode() not in line:
            continue
        before, separator, after = line.partition(b" - ")
        left, right = before.split(b" "), after.split(b" ")
        if not separator or len(left) < 6 or len(right) < 3 or right[0] != FSTYPE.encode():
            continue
        device = left[2].decode("ascii", "replace")
        options = dict.fromkeys(left[5].split(b",") + [w for w in right[2].split(b",") if w not in (b"ro", b"rw")])
        found.append(
            Mount(
                source=_decode(right[1]),
                mountpoint=_decode(left[4]),
                options=_decode(b",".join(options)),
                pid=_server(device),
                device=device,
            )
        )
    return found


def _decode(field: bytes) -> str:
    r"""A field with its ``\040`` escapes undone."""
    return os.fsdecode(_OCTAL.sub(lambda m: bytes((int(m[1], 8) & 0xFF,)), field))


def runtime_dir() -> Path:
    """Where servers note their process numbers: gone after a reboot, as the mounts are."""
    if os.geteuid() == 0:
        return Path("/run/lamina")
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/lamina-{os.geteuid()}")


def _note(device: str) -> Path:
    return runtime_dir() / f"mount-{device.replace(':', '-')}.pid"


def write_pid(device: str) -> None:
    """Note that this process serves the mount with that ``major:minor``; without effect where it cannot be noted."""
    try:
        runtime_dir().mkdir(mode=0o700 if os.geteuid() else 0o755, parents=True, exist_ok=True)
        if runtime_dir().stat().st_uid != os.geteuid():
            return
        _note(device).write_text(f"{os.getpid()}\n")
    except OSError:
        pass


def remove_pid(device: str) -> None:
    """Take the note away, if it is this process's."""
    try:
        if _note(device).read_text().strip() == str(os.getpid()):
            _note(device).unlink()
    except OSError:
        pass


def _server(device: str) -> int | None:
    try:
        pid = int(_note(device).read_text())
        os.kill(pid, 0)
    except PermissionError:
        return pid
    except (OSError, ValueError):
        return None
    return pid
