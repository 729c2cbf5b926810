"""Tar archives by hand, block by block: what no tool would write."""

import base64
from dataclasses import dataclass, field

BLOCK = 512
END = bytes(2 * BLOCK)


def number(value: int, width: int) -> bytes:
    """A number field: octal, or GNU base-256 where that is too short or negative."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return (value % (1 << (8 * width)) | 0x80 << (8 * (width - 1))).to_bytes(width, "big")


def summed(header: bytes) -> bytes:
    """A header with its checksum put right."""
    blank = header[:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(blank) + header[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def header(
    name: bytes,
    size: int = 0,
    kind: bytes = b"0",
    *,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 0,
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
    major: int = 0,
    minor: int = 0,
    prefix: bytes = b"",
) -> bytes:
    fields = (
        name.ljust(100, b"\0")[:100]
        + number(mode, 8)
        + number(uid, 8)
        + number(gid, 8)
        + number(size, 12)
        + number(mtime, 12)
        + b" " * 8
        + kind
        + link.ljust(100, b"\0")[:100]
        + magic
        + bytes(64)
        + number(major, 8)
        + number(minor, 8)
        + prefix.ljust(155, b"\0")
    )
    return summed(fields.ljust(BLOCK, b"\0"))


def member(name: bytes, data: bytes = b"", kind: bytes = b"0", **more: object) -> bytes:
    return header(name, len(data), kind, **more) + padded(data)  # type: ignore[arg-type]


def pax(records: dict[bytes, bytes] | list[tuple[bytes, bytes]], kind: bytes = b"x") -> bytes:
    """An extended header of these records."""
    text = b""
    for key, value in records.items() if isinstance(records, dict) else records:
        rest = b" " + key + b"=" + value + b"\n"
        length = len(rest)
        while length != len(b"%d" % length) + len(rest):
            length = len(b"%d" % length) + len(rest)
        text += b"%d" % length + rest
    return member(b"././@PaxHeader", text, kind)


def libarchive_xattr(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """As bsdtar writes one."""
    return b"LIBARCHIVE.xattr." + name, base64.b64encode(value).rstrip(b"=")


@dataclass
class OldSparse:
    """A sparse member of the GNU format: four parts in the header, twenty-one in each block after it."""

    name: bytes
    realsize: int
    parts: list[tuple[int, bytes]]
    extended: bool = field(init=False, default=False)
    more: dict[str, int] = field(default_factory=dict)
    """Fields of the header."""

    def bytes(self) -> bytes:
        data = b"".join(part for _, part in self.parts)
        pairs = [number(offset, 12) + number(len(part), 12) for offset, part in self.parts]
        head = bytearray(header(self.name, len(data), b"S", magic=b"ustar  \0", **self.more))  # type: ignore[arg-type]
        head[386:482] = b"".join(pairs[:4]).ljust(96, b"\0")
        head[482] = len(pairs) > 4
        head[483:495] = number(self.realsize, 12)
        blocks = b""
        rest = pairs[4:]
        while rest:
            some, rest = rest[:21], rest[21:]
            blocks += (b"".join(some).ljust(504, b"\0") + bytes([bool(rest)])).ljust(BLOCK, b"\0")
        return summed(bytes_of(head)) + blocks + padded(data)


bytes_of = bytes
