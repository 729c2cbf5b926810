"""Fields of tar headers, and the records of extended ones: bytes from outside to numbers within their bounds.

Each function raises ``SourceError`` for what cannot be.
"""

import base64
import os
import re
import struct
from urllib.parse import unquote_to_bytes

from lamina.errors import SourceError

MAX_SIZE = (1 << 63) - 1
MAX_SECONDS = (1 << 62) - 1
_MAX_XATTR_NAME, _MAX_XATTR = 255, 64 << 10
"""linux/limits.h: XATTR_NAME_MAX, XATTR_SIZE_MAX."""
_MAX_MAJOR, _MAX_MINOR = (1 << 12) - 1, (1 << 20) - 1
"""linux/kdev_t.h: MINORBITS."""
NS = 1_000_000_000

_OCTAL = re.compile(rb"[0-7]+\Z")
_PAX_NUMBER = re.compile(rb"[0-9]{1,20}\Z")
_PAX_TIME = re.compile(rb"-?[0-9]{1,20}(\.[0-9]*)?\Z")
_PAX_FIELDS = frozenset([b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"atime", b"ctime"])


def check(header: bytes, position: int) -> None:
    """Compare a header with its checksum; old tars summed signed bytes."""
    stored = number(header[148:156], "checksum")
    plain = sum(header[:148]) + 256 + sum(header[156:])
    if stored == plain:
        return
    numbers = struct.unpack("512b", header)
    if stored != sum(numbers[:148]) + 256 + sum(numbers[156:]):
        raise SourceError(f"input is no tar archive, or damaged: bad header checksum before byte {position}")


def string(data: bytes) -> bytes:
    """A text field: up to the first zero."""
    return data.split(b"\0", 1)[0]


def number(data: bytes, what: str) -> int:
    """A number field; ``what`` it is, for messages."""
    if data[0] & 0x80:  # GNU base-256, two's complement over the remaining bits
        value = int.from_bytes(data, "big") & ((1 << (8 * len(data) - 1)) - 1)
        return value - (1 << (8 * len(data) - 1)) if data[0] & 0x40 else value
    text = data.split(b"\0", 1)[0].strip()
    if not text:
        return 0
    if not _OCTAL.match(text):
        raise SourceError(f"input is no tar archive, or damaged: bad {what} in a header")
    return int(text, 8)


def bounded(value: int, low: int, high: int, what: str) -> int:
    """``value``, which is between the other two."""
    if not low <= value <= high:
        raise SourceError(f"tar is damaged: a {what} of {value} in a header")
    return value


def owner(field: bytes, text: bytes | None, what: str) -> int:
    """A user or group number; negative ones stand for the highest, as chown(2) takes them."""
    value = pax_int(text, what, (1 << 32) - 1) if text is not None else number(field, what)
    return bounded(value, -(1 << 31), (1 << 32) - 1, what) & 0xFFFFFFFF


def pax_records(data: bytes) -> list[tuple[bytes, bytes]]:
    """The (keyword, value) pairs of an extended header, in order."""
    records: list[tuple[bytes, bytes]] = []
    position = 0
    while position < len(data) and data[position]:
        space = data.find(b" ", position, position + 20)
        digits = data[position:space] if space > 0 else b""
        if not digits.isdigit():
            raise SourceError("tar is damaged: bad record in an extended header")
        end = position + int(digits)
        equals = data.find(b"=", space, end)
        if end > len(data) or equals < 0 or data[end - 1 : end] != b"\n":
            raise SourceError("tar is damaged: bad record in an extended header")
        records.append((data[space + 1 : equals], data[equals + 1 : end - 1]))
        position = end
    return records


def override(pax: dict[bytes, bytes], records: list[tuple[bytes, bytes]]) -> None:
    """Later records replace earlier ones; an empty value gives the header's own field back (pax(1))."""
    for key, value in records:
        if value or key not in _PAX_FIELDS:
            pax[key] = value
        else:
            pax.pop(key, None)


def pax_int(text: bytes, what: str, most: int) -> int:
    """A whole number in a record."""
    if not _PAX_NUMBER.match(text) or int(text) > most:
        raise SourceError(f"tar is damaged: bad {what} in an extended header")
    return int(text)


def pax_time(text: bytes) -> int:
    """A time in a record, as nanoseconds since the epoch."""
    if not _PAX_TIME.match(text):
        raise SourceError("tar is damaged: bad time in an extended header")
    whole, _, fraction = text.partition(b".")
    nanoseconds = int((fraction + b"0" * 9)[:9])
    time = int(whole) * NS + (-nanoseconds if whole.startswith(b"-") else nanoseconds)
    return bounded(time, -MAX_SECONDS * NS, MAX_SECONDS * NS, "time")


def device(header: bytes) -> int:
    """The device number of a header."""
    major = bounded(number(header[329:337], "device"), 0, _MAX_MAJOR, "device number")
    return os.makedev(major, bounded(number(header[337:345], "device"), 0, _MAX_MINOR, "device number"))


def xattrs(pax: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """The extended attributes that records tell, as GNU tar, star and libarchive write them."""
    found: dict[bytes, bytes] = {}
    for key, value in pax.items():
        if key.startswith(b"LIBARCHIVE.xattr."):
            name = unquote_to_bytes(key[17:])
            try:
                found[name] = base64.b64decode(value + b"=" * (-len(value) % 4))
            except ValueError:
                raise SourceError("tar is damaged: an extended attribute is not base64") from None
        elif key == b"RHT.security.selinux":
            found[b"security.selinux"] = value
    for key, value in pax.items():
        if key.startswith(b"SCHILY.xattr."):
            # As xattr_encode_keyword of GNU tar writes what may not stand in a keyword.
            found[key[13:].replace(b"%3D", b"=").replace(b"%25", b"%")] = value
    for key, value in found.items():
        if not 0 < len(key) <= _MAX_XATTR_NAME or b"\0" in key or len(value) > _MAX_XATTR:
            raise SourceError("tar is damaged: an extended attribute that no file can have")
    return found
