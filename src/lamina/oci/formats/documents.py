"""JSON documents from outside, read so that a hostile one does no harm: bounded in size and depth, nothing twice.

Go's decoder, which most of the field uses, takes member names whatever their case and lets the last of several win.
Two readers may then see two different images in one document of one digest; what could be read in two ways is refused.
"""

import json
from collections.abc import Iterator
from typing import Any, NoReturn

from lamina.errors import OciError
from lamina.pool.names import printable

MAX_DOCUMENT = 4 << 20
"""Bytes of a manifest or an index: what registries take at most (OCI distribution-spec, "Pushing Manifests")."""

MAX_CONFIG = 16 << 20
"""Bytes of an image's config; its history is the only part that grows."""

_MAX_DEPTH = 64
_MAX_NUMBER = (1 << 63) - 1


class _Twice(ValueError):
    """A member name that stands twice in one object."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return members


def _constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def parse_json(raw: bytes, what: str, limit: int = MAX_DOCUMENT) -> Any:
    """The value of a JSON text of at most ``limit`` bytes. ``what`` names it in the ``OciError`` it may raise."""
    if len(raw) > limit:
        raise OciError(f"{what} is larger than {limit >> 20} MiB")
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_pairs, parse_constant=_constant)
        _check_depth(value, what)
        if b"\\u" in raw:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except _Twice as error:
        raise OciError(f"{what} has the member '{printable(str(error)[:80])}' twice") from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else _reason(error)
        raise OciError(f"{what} is no usable JSON: {reason}") from None
    return value


def _reason(error: ValueError) -> str:
    if isinstance(error, UnicodeError):
        return "it is not UTF-8"
    return printable(str(error)[:120])


def _check_depth(value: Any, what: str) -> None:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            below
            for one in level
            if isinstance(one, (dict, list))
            for below in (one.values() if isinstance(one, dict) else one)
            if isinstance(below, (dict, list))
        ]
        if not level:
            return
    raise OciError(f"{what} is nested more than {_MAX_DEPTH} levels deep")


class Fields:
    """An object of a JSON document; its members are asked for by name and type. Raises ``OciError`` for others."""

    def __init__(self, value: Any, what: str) -> None:
        """``what`` names the object in messages."""
        if not isinstance(value, dict):
            raise OciError(f"{what} is not a JSON object")
        self.what = what
        self._members: dict[str, Any] = value
        self._folded: dict[str, list[str]] = {}
        for member in value:
            self._folded.setdefault(member.lower(), []).append(member)

    def __contains__(self, name: str) -> bool:
        return self.value(name) is not None

    def value(self, name: str) -> Any:
        """The member as it is; None where it is missing or null."""
        for member in self._folded.get(name.lower(), ()):
            if member != name:
                raise OciError(f"{self.what} has a member '{printable(member[:80])}' that may be meant as '{name}'")
        return self._members.get(name)

    def text(self, name: str, default: str | None = None) -> str:
        """A string; ``default`` where it is missing, which without one is an error."""
        value = self.value(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise OciError(f"{self.what} has no {name}" if value is None else f"{self.what}: {name} is not a string")
        return value

    def size(self, name: str) -> int:
        """A number of bytes, 0 or more."""
        value = self.value(name)
        if type(value) is not int or not 0 <= value <= _MAX_NUMBER:
            raise OciError(
                f"{self.what} has no {name}" if value is None else f"{self.what}: {name} is no number of bytes"
            )
        return value

    def flag(self, name: str) -> bool:
        """True or false; false where it is missing."""
        value = self.value(name)
        if value is not None and not isinstance(value, bool):
            raise OciError(f"{self.what}: {name} is neither true nor false")
        return bool(value)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings; empty where it is missing."""
        value = self.value(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise OciError(f"{self.what}: {name} is not a list of strings")
        return tuple(value)

    def mapping(self, name: str) -> dict[str, str]:
        """An object whose members are strings; empty where it is missing."""
        value = self.value(name)
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
            raise OciError(f"{self.what}: {name} is not an object of strings")
        return value

    def names(self, name: str) -> tuple[str, ...]:
        """The names of an object's members; empty where it is missing."""
        value = self.value(name)
        if value is not None and not isinstance(value, dict):
            raise OciError(f"{self.what}: {name} is not an object")
        return tuple(value or ())

    def object(self, name: str) -> "Fields | None":
        """An object; None where it is missing."""
        value = self.value(name)
        return None if value is None else Fields(value, f"{self.what}: {name}")

    def objects(self, name: str) -> "Iterator[Fields]":
        """The objects of a list; none where it is missing."""
        value = self.value(name)
        if value is None:
            return
        if not isinstance(value, list):
            raise OciError(f"{self.what}: {name} is not a list")
        for number, one in enumerate(value, 1):
            yield Fields(one, f"{self.what}: {name} {number}")
