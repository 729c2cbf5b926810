"""``WWW-Authenticate``: how a registry says in what way it wants to be told who asks (RFC 9110, section 11)."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PART = re.compile(
    rf'\s*(?P<name>{_TOKEN})\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>{_TOKEN}))\s*(?:,|\Z)'
    rf"|\s*(?P<scheme>{_TOKEN})(?:\s+|\s*,|\s*\Z)"
    r"|\s*,"
)
_MAX_HEADER = 16 << 10


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way: ``scheme`` in small letters (``bearer``, ``basic``), and its parameters."""

    scheme: str
    parameters: Mapping[str, str]

    def get(self, name: str) -> str:
        """A parameter, or an empty string."""
        return self.parameters.get(name, "")


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """All challenges of an answer's headers; what cannot be understood is left out."""
    found: list[Challenge] = []
    for header in headers:
        found += _of_header(header[:_MAX_HEADER])
    return tuple(found)


def _of_header(header: str) -> list[Challenge]:
    found: list[tuple[str, dict[str, str]]] = []
    position = 0
    while position < len(header):
        part = _PART.match(header, position)
        if part is None or part.end() == position:
            break
        position = part.end()
        if part["scheme"] is not None:
            found.append((part["scheme"].lower(), {}))
        elif part["name"] is not None and found:
            quoted = part["quoted"]
            value = part["plain"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            found[-1][1].setdefault(part["name"].lower(), value)
    return [Challenge(scheme, parameters) for scheme, parameters in found]
