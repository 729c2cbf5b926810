"""Archives that are damaged, cut short or hostile: one error, one clear line, nothing left behind."""

import ast
import bz2
import gzip
import io
import lzma
import random
import re
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lamina.errors import SourceError
from lamina.ingest import tarsource
from tests.ingest.archives import BLOCK, END, OldSparse, header, libarchive_xattr, member, number, pax, summed
from tests.ingest.kit import Shop, of_tree, take
from tests.store.kit import in_child


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One for all: ``take`` checks that a failure leaves it as it was."""
    shop = Shop(tmp_path_factory.mktemp("bad") / "shop")
    yield shop
    shop.close()


def refused(shop: Shop, archive: bytes, words: str = "") -> str:
    """The message with which an archive is refused; it is one printable line."""
    with pytest.raises(SourceError) as caught:
        take(shop, archive, threads=1)
    text = str(caught.value)
    assert text.isprintable(), repr(text)
    assert len(text) < 6000
    assert re.search(words, text), text
    return text


FILE = member(b"file", b"x" * 700)


def mixed() -> bytes:
    """A bit of everything."""
    pieces = [(n * 5120, b"%03d" % n * 171) for n in range(8)]
    sparse = b"2\n0\n512\n100000\n100\n"
    return (
        member(b"d/", kind=b"5")
        + member(b"d/one", b"1" * 1000)
        + pax({b"path": b"long" * 60, b"mtime": b"1.5", b"SCHILY.xattr.user.a": b"v"})
        + member(b"short", b"2" * 513)
        + member(b"@LongLink", b"d/" + b"l" * 200 + b"\0", b"L")
        + member(b"@LongLink", b"t" * 300 + b"\0", b"K")
        + header(b"l", kind=b"2", link=b"t")
        + member(b"h", kind=b"1", link=b"d/one")
        + OldSparse(b"old", 50_000, pieces).bytes()
        + pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"200000"})
        + member(b"sparse", sparse + bytes(512 - len(sparse)) + b"s" * 612)
        + member(b"large", random.Random(5).randbytes(12_000))
        + member(b"n", kind=b"3", major=1, minor=3)
    )


# -- cut short ------------------------------------------------------------------------------------------------------


def test_cut_after_every_block(shop: Shop) -> None:
    archive = mixed() + END
    take(shop, archive)
    blocks = len(mixed()) // BLOCK
    assert blocks > 50
    for count in range(blocks + 1):
        refused(shop, archive[: count * BLOCK], "cut short|empty")
    take(shop, archive[: (blocks + 1) * BLOCK])


@given(st.integers(0, len(mixed()) + BLOCK - 1))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cut_at_any_byte(shop: Shop, end: int) -> None:
    refused(shop, (mixed() + END)[:end])


@pytest.mark.parametrize(
    "compress",
    [
        gzip.compress,
        lzma.compress,
        bz2.compress,
        lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
    ],
    ids=["gzip", "xz", "bzip2", "zstd"],
)
def test_compressed_and_cut_or_damaged(shop: Shop, compress: Callable[[bytes], bytes]) -> None:
    packed = compress(mixed() + END)
    take(shop, packed)
    for end in {*range(1, 30), *range(30, len(packed) - 40, 611)}:
        refused(shop, packed[:end])
    rng = random.Random(6)
    wanted = of_tree(take(shop, packed).tree)
    found_damage = 0
    for _ in range(60):
        damaged = bytearray(packed)
        damaged[rng.randrange(len(packed))] ^= 1 << rng.randrange(8)
        try:
            assert of_tree(take(shop, bytes(damaged), threads=1).tree) == wanted, "damage went through"
        except SourceError as error:
            found_damage += 1
            assert str(error).isprintable()
    assert found_damage > 50


def test_empty_input(shop: Shop) -> None:
    refused(shop, b"", "input is empty")
    refused(shop, bytes(BLOCK), "empty")
    for compress in (gzip.compress, lzma.compress, bz2.compress, zstandard.compress):
        refused(shop, compress(b""), "input is empty")


@pytest.mark.parametrize("seed", range(5))
def test_noise(shop: Shop, seed: int) -> None:
    rng = random.Random(seed)
    for size in (1, 100, BLOCK - 1, BLOCK, 5000):
        refused(shop, rng.randbytes(size), "no tar archive|cut short|empty")
    for magic in (b"\x1f\x8b\x08\0", b"\xfd7zXZ\0", b"BZh9", b"\x28\xb5\x2f\xfd"):
        refused(shop, magic + rng.randbytes(3000))
    refused(shop, b"PK\x03\x04" + bytes(600), "no tar archive")


# -- where members may lie ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [b"0", b"2", b"5", b"1", b"3"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        (b"..", "leaves the tree"),
        (b"../x", "leaves the tree"),
        (b"a/../../x", "leaves the tree"),
        (b"a/../b", "leaves the tree"),
        (b"./..", "leaves the tree"),
        (b"/x", "absolute"),
        (b"//etc/passwd", "absolute"),
        (b"a/" + b"n" * 256, "no file can have"),
    ],
)
def test_names_outside_of_the_tree(shop: Shop, name: bytes, words: str, kind: bytes) -> None:
    refused(shop, FILE + pax({b"path": name}) + member(b"x", kind=kind, link=b"file") + END, words)
    refused(shop, FILE + member(b"L", name + b"\0", b"L") + member(b"x", kind=kind, link=b"file") + END, words)


def test_hard_links_outside_of_the_tree(shop: Shop) -> None:
    for link, words in ((b"../file", "leaves the tree"), (b"/file", "absolute"), (b"file/..", "leaves the tree")):
        refused(shop, FILE + member(b"x", kind=b"1", link=link) + END, words)


@pytest.mark.parametrize("link", [b"gone", b"file/below", b"d/gone", b"later", b"s/file"])
def test_hard_links_to_nothing(shop: Shop, link: bytes) -> None:
    above = FILE + member(b"d/", kind=b"5") + member(b"s", kind=b"2", link=b".")
    text = refused(
        shop, above + member(b"x", kind=b"1", link=link) + member(b"later", b"x") + END, "which is not there"
    )
    assert link.decode() in text


@pytest.mark.parametrize("link", [b"d", b"d/", b".", b""])
def test_hard_links_to_directories(shop: Shop, link: bytes) -> None:
    refused(shop, member(b"d/", kind=b"5") + member(b"x", kind=b"1", link=link) + END, "directory")


@pytest.mark.parametrize(
    "above",
    [
        member(b"d", b"a file"),
        member(b"d", kind=b"2", link=b"/etc"),
        member(b"d", kind=b"2", link=b"e"),
        member(b"d", kind=b"6"),
    ],
)
@pytest.mark.parametrize("below", [b"d/x", b"d/x/y", b"d/x/"])
def test_members_below_what_is_no_directory(shop: Shop, above: bytes, below: bytes) -> None:
    """Links are never followed: a member behind one would lie outside."""
    refused(shop, member(b"e/", kind=b"5") + above + member(below, b"") + END, "lies below 'd', which is no directory")


@pytest.mark.parametrize("name", [b"", b".", b"./", b"/"])
@pytest.mark.parametrize("kind", [b"0", b"2", b"1"])
def test_a_file_in_place_of_the_root(shop: Shop, name: bytes, kind: bytes) -> None:
    if kind == b"0" and name.endswith(b"/") and name != b"/":
        return  # a directory, in the way of old archives
    refused(shop, FILE + member(name, kind=kind, link=b"file") + END)


@pytest.mark.parametrize("target", [b"", b"t" * 4096, b"a\0b"])
def test_symbolic_links_without_a_usable_target(shop: Shop, target: bytes) -> None:
    refused(shop, pax([(b"linkpath", target)]) + header(b"s", kind=b"2") + END, "usable target")


# -- what is printed ------------------------------------------------------------------------------------------------

EVIL = [
    b"\x1b]0;owned\x07",
    b"a\nb: fine",
    b"\x9b31m\x7f",
    b"\xff\xfe\x00"[:2],
    "\u202egpj.exe\u2066".encode(),
    b"\r\x08x",
]


@pytest.mark.parametrize("evil", EVIL)
def test_control_bytes_are_never_printed(shop: Shop, evil: bytes) -> None:
    for name in (b"../" + evil, b"/" + evil, evil + b"/" + b"n" * 300, evil + b"\0x"):
        refused(shop, pax({b"path": name}) + member(b"x") + END)
    refused(shop, FILE + member(evil, kind=b"1", link=evil + b"gone") + END)
    refused(shop, member(evil, b"") + member(evil + b"/x", b"") + END)
    refused(shop, pax({b"mtime": evil}) + member(b"x") + END)
    refused(shop, pax({b"uid": evil, b"path": evil}) + member(b"x") + END)
    refused(shop, member(evil, kind=evil[:1]) + END)
    refused(shop, evil + bytes(600))
    refused(shop, gzip.compress(FILE)[:-8] + evil)
    # As names they are as good as others.
    assert b"./" + evil in of_tree(take(shop, member(evil, b"x") + END).tree)


def test_a_name_of_megabytes_is_not_printed_whole(shop: Shop) -> None:
    for name in (b"../" + b"n" * 60_000, b"n" * 5_000_000, b"/" + b"\x1b" * 60_000):
        refused(shop, pax({b"path": name}) + member(b"x") + END)


# -- headers --------------------------------------------------------------------------------------------------------


def with_field(start: int, end: int, data: bytes, base: bytes = b"") -> bytes:
    head = bytearray(base or header(b"x"))
    head[start:end] = data.ljust(end - start, b"\0")
    return summed(bytes(head))


def test_a_bad_checksum(shop: Shop) -> None:
    for at in (0, 100, 150, 156, 257, 511):
        head = bytearray(FILE)
        head[at] ^= 1
        refused(shop, bytes(head) + END, "checksum|no tar archive")
        refused(shop, FILE + bytes(head) + END, "checksum|no tar archive|damaged")


@pytest.mark.parametrize(
    "field",
    [
        *((100, 108, value) for value in (b"8", b"-1", b"0o17", b"1_7", b"+5", b"\x31\x00\x00\x39"[3:], b"zz")),
        *((124, 136, value) for value in (b"-17", b"9", b"1 1", number(-5, 12), b"\xff" * 12, b"\x80" + b"\xff" * 11)),
        *((108, 116, value) for value in (number(-(2**40), 8), b"\x80" + b"\xff" * 7, b"a")),
        *((136, 148, value) for value in (b"\x80" + b"\xff" * 11, b"\xc0" + bytes(11), b"x")),
    ],
)
def test_numbers_that_are_none(shop: Shop, field: tuple[int, int, bytes]) -> None:
    refused(shop, with_field(*field) + END, "damaged|cut short")


@pytest.mark.parametrize(("major", "minor"), [(4096, 0), (0, 1 << 20), (2**40, 2**40), (-1, 0)])
def test_devices_that_cannot_be(shop: Shop, major: int, minor: int) -> None:
    head = bytearray(header(b"x", kind=b"3"))
    head[329:337], head[337:345] = number(major, 8), number(minor, 8)
    refused(shop, summed(bytes(head)) + END, "device number")


@pytest.mark.parametrize("kind", [b"M", b"N", b"s", b"Z", b"8", b"\xff"])
def test_kinds_that_are_not_known(shop: Shop, kind: bytes) -> None:
    refused(shop, FILE + member(b"x", kind=kind) + END, "not supported")


@pytest.mark.parametrize(
    "records",
    [
        *({b"mtime": value} for value in (b"x", b"1e5", b"1.5.5", b"--1", b"9" * 30, b"9" * 5000, b"nan", b"1.5\0")),
        *({key: b"9" * 5000} for key in (b"uid", b"gid", b"size", b"atime", b"ctime")),
        *({b"size": value} for value in (b"-1", b"1_0", b"+1", b" 1", b"18446744073709551616", b"0x10")),
        {b"uid": b"4294967296"},
        {b"SCHILY.xattr.": b"no name"},
        {b"SCHILY.xattr.user." + b"n" * 256: b"long name"},
        {b"SCHILY.xattr.user.a\0b": b"NUL in a name"},
        {b"SCHILY.xattr.user.a": b"v" * 65_537},
        {b"LIBARCHIVE.xattr.user.a": b"A"},
        {b"LIBARCHIVE.xattr.": b""},
        {b"path": b"a\0b"},
    ],
)
def test_extended_headers_that_make_no_sense(shop: Shop, records: dict[bytes, bytes]) -> None:
    refused(shop, pax(records) + member(b"x", b"x") + END)
    refused(shop, pax(records, b"g") + member(b"x", b"x") + END)


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"5 a=b",
        b"0 a=b\n",
        b"7 a=b\n",
        b"5 a=b\n",
        b"99 a=b\n",
        b"-6 a=b\n",
        b"6 a-b\n",
        b" 6 a=b\n",
        b"9" * 30,
        b"6\xb2 a=b\n",
    ],
)
def test_records_that_are_none(shop: Shop, data: bytes) -> None:
    refused(shop, member(b"x", data, b"x") + FILE + END, "damaged")


# -- sparse files ---------------------------------------------------------------------------------------------------


def pax_sparse(text: bytes, real: bytes, data: bytes = b"") -> bytes:
    records = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": real}
    return pax(records) + member(b"s", text + bytes(-len(text) % BLOCK) + data)


@pytest.mark.parametrize(
    "archive",
    [
        pax_sparse(b"1\n0\n100\n", b"50", b"x" * 100),
        pax_sparse(b"1\n0\n100\n", b"1000", b"x" * 90),
        pax_sparse(b"1\n0\n100\n", b"1000", b"x" * 110),
        pax_sparse(b"2\n500\n10\n0\n10\n", b"1000", b"x" * 20),
        pax_sparse(b"2\n0\n10\n5\n10\n", b"1000", b"x" * 20),
        pax_sparse(b"2\n0\n10\n", b"1000", b"x" * 10),
        pax_sparse(b"99999999999\n0\n10\n", b"1000", b"x" * 10),
        pax_sparse(b"1\n-5\n10\n", b"1000", b"x" * 10),
        pax_sparse(b"1\n0\n-10\n", b"1000", b""),
        pax_sparse(b"2\n100\n-50\n60\n60\n", b"1000", b"x" * 10),
        pax_sparse(b"x\n", b"1000"),
        pax_sparse(b"1" * 5000, b"1000"),
        pax_sparse(b"", b"1000"),
        pax_sparse(b"1\n0\n10\n", b"-1", b"x" * 10),
        pax_sparse(b"1\n0\n10\n", b"", b"x" * 10),
        pax_sparse(b"1\n0\n10\n", b"9" * 20, b"x" * 10),
        pax({b"GNU.sparse.map": b"0,5,10", b"GNU.sparse.size": b"20"}) + member(b"s", b"x" * 5),
        pax({b"GNU.sparse.map": b"0,x", b"GNU.sparse.size": b"20"}) + member(b"s", b"x" * 5),
        pax({b"GNU.sparse.map": b"0,5"}) + member(b"s", b"x" * 5),
        pax({b"GNU.sparse.numblocks": b"1", b"GNU.sparse.size": b"20"}) + member(b"s", b"x" * 5),
        OldSparse(b"s", 10, [(0, b"x" * 512)]).bytes(),
        OldSparse(b"s", 9000, [(512, b"x" * 512), (0, b"x" * 512)]).bytes(),
        with_field(386, 410, number(0, 12) + number(-5, 12), OldSparse(b"s", 9000, []).bytes()[:BLOCK]),
        with_field(483, 495, number(-5, 12), OldSparse(b"s", 9000, []).bytes()[:BLOCK]),
    ],
)
def test_sparse_maps_that_make_no_sense(shop: Shop, archive: bytes) -> None:
    refused(shop, archive + FILE + END, "damaged|cut short")


# -- what would take memory or time ---------------------------------------------------------------------------------


class Endless(io.RawIOBase):
    """A block again and again, after a beginning."""

    def __init__(self, begin: bytes, again: bytes, limit: int) -> None:
        self._begin = begin
        self._again = again * (65536 // len(again) or 1)
        self._left = limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        source = self._begin or self._again
        data = source[: min(len(view), self._left)]
        if self._begin:
            self._begin = self._begin[len(data) :]
        self._left -= len(data)
        view[: len(data)] = data
        return len(data)


HOGS = {
    "a long name that says 8 GB": lambda: Endless(header(b"x", 8 << 30, b"L"), b"n" * 512, 300 << 20),
    "an extended header that says 8 EB": lambda: Endless(header(b"x", 1 << 62, b"x"), b"n" * 512, 300 << 20),
    "a file that says 8 EB": lambda: Endless(header(b"x", 1 << 62), b"d" * 512, 5 << 20),
    "one extended header after another": lambda: Endless(
        b"", pax({b"k%d" % n: b"v" * 99 for n in range(30)}), 100 << 20
    ),
    "global headers without end": lambda: Endless(
        b"".join(pax({b"%d" % n: b"v" * 400_000}, b"g") for n in range(40)), END, 100 << 20
    ),
    "long names without end": lambda: Endless(b"", member(b"L", b"n" * 400, b"L"), 100 << 20),
    "a map without end": lambda: Endless(
        pax({b"GNU.sparse.major": b"1", b"GNU.sparse.realsize": b"9"}) + header(b"s", 1 << 40), b"1" * 512, 300 << 20
    ),
    "a map of numbers without end": lambda: Endless(
        pax({b"GNU.sparse.major": b"1", b"GNU.sparse.realsize": b"9"}) + header(b"s", 1 << 40), b"1\n" * 256, 300 << 20
    ),
    "a map that says it is long": lambda: Endless(pax_sparse(b"%d\n" % (1 << 40), b"99"), b"1\n" * 256, 300 << 20),
    "a path of a million directories": lambda: Endless(
        pax({b"path": b"d/" * 1_000_000 + b"x"}) + member(b"x"), END, 9 << 20
    ),
}


def measured(path: Path, stream: BinaryIO) -> tuple[str, int, float, int]:
    """What an import in a process of its own says, the MiB it took, its seconds and the bytes that it stored."""

    def work() -> tuple[str, int, float, int]:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.monotonic()
        words, new = "taken", 0
        try:
            new = take(Shop(path), stream, threads=1).written.new_bytes
        except SourceError as error:
            words = str(error)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return words, (peak - before) >> 10, time.monotonic() - started, new

    answer = ast.literal_eval(in_child(work))
    assert isinstance(answer, tuple)
    return answer


@pytest.mark.parametrize("which", HOGS)
def test_absurd_sizes_take_neither_memory_nor_time(tmp_path: Path, which: str) -> None:
    words, peak, seconds, _ = measured(tmp_path / "shop", io.BufferedReader(HOGS[which]()))
    assert words != "taken" and words.isprintable()
    assert peak < 60, f"{peak} MiB"
    assert seconds < 20


def test_a_bomb_of_zeros_is_a_hole(tmp_path: Path) -> None:
    """256 MiB of zeros in a quarter of a megabyte of gzip: no memory, no space."""
    size = 1 << 28
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as file:
        file.write(header(b"zeros", size))
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
        file.write(END)
    packed.seek(0)
    words, peak, _, new = measured(tmp_path / "shop", packed)
    assert (words, new) == ("taken", 0)
    assert peak < 40, f"{peak} MiB"


def test_a_path_of_many_directories_is_taken(shop: Shop) -> None:
    """Deeper than PATH_MAX and than Python's stack."""
    taken = take(shop, pax({b"path": b"d/" * 5000 + b"x"}) + member(b"x", b"x") + END)
    assert taken.totals.directories == 5001


# -- fuzz -----------------------------------------------------------------------------------------------------------

SEEDS = {
    "mixed": mixed() + END,
    "names": pax({b"path": b"a/b", b"SCHILY.xattr.user.x": b"1"})
    + member(b"x", b"y")
    + pax({b"uid": b"1"}, b"g")
    + FILE
    + END,
    "links": FILE
    + member(b"l", kind=b"1", link=b"file")
    + member(b"file", b"new")
    + member(b"s", kind=b"2", link=b"l")
    + END,
    "xattr": pax(dict([libarchive_xattr(b"user.a", b"v" * 50)])) + FILE + END,
}

mutations = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "cut", "drop", "repeat", "swap", "text", "number"]),
        st.integers(0, 10**6),
        st.integers(0, 10**6),
    ),
    min_size=1,
    max_size=6,
)


def mutated(data: bytes, changes: list[tuple[str, int, int]], mend: bool) -> bytes:
    """Changes here and there; ``mend`` puts the checksums of headers right again, to get further."""
    out = bytearray(data)
    for how, where, what in changes:
        if len(out) < 2 * BLOCK:
            break
        at = where % len(out)
        block = at - at % BLOCK
        if how == "flip":
            out[at] ^= 1 << what % 8
        elif how == "set":
            out[at] = what % 256
        elif how == "cut":
            del out[at:]
        elif how == "drop":
            del out[block : block + BLOCK * (1 + what % 3)]
        elif how == "repeat":
            out[block:block] = out[block : block + BLOCK * (1 + what % 3)]
        elif how == "swap":
            other = what % len(out) // BLOCK * BLOCK
            out[block : block + BLOCK], out[other : other + BLOCK] = (
                out[other : other + BLOCK],
                out[block : block + BLOCK],
            )
        elif how == "text":
            fields = [(0, 100), (157, 257), (345, 500), (257, 265)]
            start, end = fields[what % 4]
            text = [b"../x", b"/x", b"a\0b", b"d", b"file", b"", b"x/" * 49, b"\xff\x1b"][what // 4 % 8]
            out[block + start : block + end] = text.ljust(end - start, b"\0")[: end - start]
        else:
            fields = [
                (100, 108),
                (108, 116),
                (116, 124),
                (124, 136),
                (136, 148),
                (329, 337),
                (337, 345),
                (386, 398),
                (483, 495),
            ]
            start, end = fields[what % 9]
            value = [0, 1, 511, 513, -1, 2**33, -(2**40), 2**62, 12345][what // 9 % 9]
            out[block + start : block + end] = number(value, end - start)[-(end - start) :]
    if mend:
        for block in range(0, len(out) - BLOCK + 1, BLOCK):
            head = bytes(out[block : block + BLOCK])
            if head[257:262] == b"ustar" or head[148:156].strip(b"\0 01234567") == b"" != head[148:156].strip(b"\0"):
                out[block : block + BLOCK] = summed(head)
    return bytes(out)


@given(st.sampled_from(sorted(SEEDS)), mutations, st.sampled_from([True, True, True, False]))
@settings(max_examples=500, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutations_raise_nothing_else(shop: Shop, seed: str, changes: list[tuple[str, int, int]], mend: bool) -> None:
    archive = mutated(SEEDS[seed], changes, mend)
    try:
        taken = take(shop, archive, threads=1)
    except SourceError as error:
        assert str(error).isprintable()
        return
    # What was taken is a sound tree, whatever it is.
    entries = of_tree(taken.tree)
    names: dict[bytes, int] = {}
    for entry in entries.values():
        names[entry.same] = names.get(entry.same, 0) + 1
    for entry in entries.values():
        if entry.mode & 0o170000 != 0o040000:
            assert entry.nlink == names[entry.same]
    assert taken.totals.inodes == len(names)


def test_mutations_get_past_the_checksum() -> None:
    """The fuzzer would be blind if nearly everything failed at a checksum."""
    rng = random.Random(9)
    reasons: dict[str, int] = {}
    hows = ["flip", "set", "drop", "repeat", "swap", "text", "number"]
    for _ in range(400):
        changes = [(rng.choice(hows), rng.randrange(10**6), rng.randrange(10**6)) for _ in range(2)]
        reader = tarsource.tar.TarReader(io.BytesIO(mutated(SEEDS["mixed"], changes, True)))
        try:
            for _member in reader:
                pass
            reason = "taken"
        except SourceError as error:
            reason = re.sub(r"[0-9]+|'.*'", "N", str(error))
        reasons[reason] = reasons.get(reason, 0) + 1
    assert len(reasons) > 8, reasons
    assert reasons["taken"] > 80, reasons


def test_the_import_of_a_directory_never_reads_an_archive(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.tar").write_bytes(mixed() + END)
    assert set(of_tree(take(shop, tmp_path / "root").tree)) == {b".", b"./a.tar"}
