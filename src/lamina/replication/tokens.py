"""Resume tokens: what the receiver of a stream that was cut tells the sender, as one word.

A token is ``1-CHECK-LENGTH-DATA``, as OpenZFS's are: a version, the low half of the XXH3-64 of the data and its length
in hexadecimal, and deflated JSON in hexadecimal.
"""

import json
import re
import zlib
from dataclasses import asdict, dataclass

import xxhash

from lamina.errors import LaminaError

_VERSION = 1
_FORM = re.compile(r"([0-9]{1,9})-([0-9a-f]{1,8})-([0-9a-f]{1,8})-([0-9a-f]{2,16384})")
_MOST = 64 << 10
"""Bytes that the data of a token may inflate to."""


@dataclass(frozen=True, slots=True)
class Token:
    """Where to go on: behind the object ``after`` (hexadecimal) of the snapshot ``guid``, which starts from ``source``.

    ``name``: of the snapshot at the sender; ``objects`` and ``bytes``: what has come; ``properties`` and ``holds``:
    whether the stream carried them.
    """

    name: str
    guid: int
    source: int | None
    after: str
    objects: int
    bytes: int
    properties: bool = False
    holds: bool = False

    def word(self) -> str:
        """The token as it is printed and typed."""
        data = zlib.compress(json.dumps(asdict(self), separators=(",", ":")).encode(), 9)
        return f"{_VERSION}-{_check(data):x}-{len(data):x}-{data.hex()}"


def parse_token(word: str) -> Token:
    """What a token says. Raises ``LaminaError`` in OpenZFS's words."""
    match = _FORM.fullmatch(word)
    if match is None:
        raise LaminaError("cannot resume send: resume token is corrupt (invalid format)")
    if int(match[1]) != _VERSION:
        raise LaminaError(f"cannot resume send: resume token version {match[1]} is not supported; use a newer lamina")
    try:
        data = bytes.fromhex(match[4])
        if len(data) != int(match[3], 16) or _check(data) != int(match[2], 16):
            raise ValueError("checksum")
        inflate = zlib.decompressobj()
        text = inflate.decompress(data, _MOST)
        if not inflate.eof:
            raise ValueError("length")
        value = json.loads(text)
        token = Token(**value)
        plain = (token.name, token.after, token.guid, token.objects, token.bytes)
        if [type(one) for one in plain] != [str, str, int, int, int] or len(bytes.fromhex(token.after)) != 32:
            raise ValueError("content")
        if token.source is not None and type(token.source) is not int:
            raise ValueError("content")
    except (ValueError, TypeError, zlib.error, RecursionError):
        raise LaminaError("cannot resume send: resume token is corrupt (incorrect checksum)") from None
    return token


def _check(data: bytes) -> int:
    return xxhash.xxh3_64_intdigest(data) & 0xFFFFFFFF
