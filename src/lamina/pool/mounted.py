"""What is mounted, from the kernel's list: it is asked, not remembered."""

import re

_OCTAL = re.compile(r"\\([0-7]{3})")


def mounted(pool: str) -> dict[str, str]:
    """Mount points of the datasets and snapshots of a pool, by name (proc(5), ``/proc/self/mounts``)."""
    found: dict[str, str] = {}
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return found
    for line in lines:
        fields = [_OCTAL.sub(lambda match: chr(int(match[1], 8)), field) for field in line.split(" ")]
        if len(fields) > 2 and fields[2] == "fuse.lamina" and re.split("[/@]", fields[0])[0] == pool:
            found.setdefault(fields[0], fields[1])
    return found
