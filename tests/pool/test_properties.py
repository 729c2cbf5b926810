"""Properties: values, refusals and formats next to what OpenZFS 2.3.2 answered."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import PropertyError
from lamina.pool.figures.limits import LIMITS
from lamina.pool.properties import (
    PROPERTIES,
    SPACE_COLUMNS,
    check_inherit,
    default_value,
    describe_properties,
    format_value,
    inherited_value,
    is_user_property,
    native_name,
    parse_properties,
    parse_value,
    properties_for,
    raw_value,
)
from lamina.pool.units import format_date, format_ratio, format_size, parse_size

# (bytes, how zfs printed them): pairs of `zfs list` and `zfs list -p`, `get` and `get -p`, from the transcript.
SIZES = [
    (71815168, "68.5M"),
    (98304, "96K"),
    (294912, "288K"),
    (196608, "192K"),
    (393216, "384K"),
    (70254592, "67M"),
    (57344, "56K"),
    (40304640, "38.4M"),
    (3780542464, "3.52G"),
    (3820498944, "3.56G"),
    (3890700288, "3.62G"),
    (8765440, "8.36M"),
    (31539200, "30.1M"),
    (112248320, "107M"),
    (16828416, "16.0M"),
    (4026531840, "3.75G"),
    (0, "0B"),
    # zfs_nicenum_format: its own comment's example, and the edges.
    (10239, "10.0K"),
    (1, "1B"),
    (1023, "1023B"),
    (1024, "1K"),
    (1025, "1.00K"),
    (1024**2 - 1, "1024K"),
    (1024**3, "1G"),
    (1024**4 * 3 // 2, "1.50T"),
    (1024**5 * 999 + 1, "999P"),
    (2**64 - 1, "16.0E"),
]


@pytest.mark.parametrize(("size", "text"), SIZES)
def test_sizes_as_zfs(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(0, 15 * 1024**6))
def test_sizes_fit_and_are_near(size: int) -> None:
    text = format_size(size)
    assert len(text) <= 5
    assert abs(parse_size(text) - size) <= max(size * 0.006, 0)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("128K", 131072),
        ("128k", 131072),
        ("128KB", 131072),
        ("128KiB", 131072),
        ("1.5T", 1024**4 * 3 // 2),
        (".5G", 1024**3 // 2),
        ("1.", 1),
        ("7B", 7),
        ("15E", 15 * 1024**6),
        ("18446744073709551615", 2**64 - 1),
        ("00000000000000000012", 12),
    ],
)
def test_sizes_that_people_type(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("abc", "bad numeric value 'abc'"),
        ("-5", "bad numeric value '-5'"),
        ("+5", "bad numeric value '+5'"),
        ("", "bad numeric value ''"),
        (" 5", "bad numeric value ' 5'"),
        ("٣", "bad numeric value '٣'"),
        ("5X", "invalid numeric suffix 'X'"),
        ("5BB", "invalid numeric suffix 'BB'"),
        ("5BiB", "invalid numeric suffix 'BiB'"),
        ("5Kx", "invalid numeric suffix 'Kx'"),
        ("1.5.2G", "invalid numeric suffix '.2G'"),
        ("16E", "numeric value is too large"),
        ("1Z", "numeric value is too large"),
        ("18446744073709551616", "numeric value is too large"),
        ("9" * 5000, "numeric value is too large"),
        ("99999999.5E", "numeric value is too large"),
    ],
)
def test_sizes_that_are_none(text: str, reason: str) -> None:
    with pytest.raises(PropertyError) as caught:
        parse_size(text)
    assert str(caught.value) == reason


@given(st.integers(0, 2**64 - 1))
def test_exact_sizes_come_back(size: int) -> None:
    assert parse_size(str(size)) == size


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (2.81, "2.81"),
        (1.0, "1.00"),
        (1.93, "1.93"),
        (2.819999, "2.81"),
        (0.29, "0.29"),
        (123.456, "123.45"),
        (0, "0.00"),
    ],
)
def test_ratios(ratio: float, text: str) -> None:
    assert format_ratio(ratio, parsable=True) == text
    assert format_ratio(ratio) == text + "x"


@given(st.integers(0, 10**7))
def test_a_ratio_of_two_decimals_is_printed_as_it_is(hundredths: int) -> None:
    assert format_ratio(hundredths / 100, parsable=True) == f"{hundredths // 100}.{hundredths % 100:02d}"


def test_dates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert format_date(1795434701) == "Mon Nov 23 11:51 2026"
    assert format_date(86400 * 4 + 3600 * 9 + 5 * 60) == "Mon Jan  5  9:05 1970"
    assert format_date(1795434701) == time.strftime("%a %b %e %k:%M %Y", time.localtime(1795434701))
    assert format_date(10**20) == str(10**20)
    monkeypatch.undo()
    time.tzset()


# ZFS's list without lzjb, which no codec here writes.
COMPRESSION = (
    "'compression' must be one of 'on | off | gzip | gzip-[1-9] | zle | lz4 | zstd | zstd-[1-19] | zstd-fast | "
    "zstd-fast-[1-10,20,30,40,50,60,70,80,90,100,500,1000]'"
)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("compression", "bogus", COMPRESSION),
        ("compression", "gzip-10", COMPRESSION),
        ("compression", "zstd-20", COMPRESSION),
        ("compression", "zstd-fast-11", COMPRESSION),
        ("compression", "brotli", COMPRESSION),
        ("compression", "lzjb", COMPRESSION),
        ("compression", "LZ4", COMPRESSION),
        ("compression", "", COMPRESSION),
        ("bogus", "1", "invalid property 'bogus'"),
        ("nocolon", "1", "invalid property 'nocolon'"),
        ("Upper:case", "1", "invalid property 'Upper:case'"),
        ("a\x1b:b", "1", "invalid property 'a\\x1b:b'"),
        ("", "1", "invalid property ''"),
        ("used", "1", "'used' is readonly"),
        ("avail", "1", "'available' is readonly"),
        ("readonly", "yes", "'readonly' must be one of 'on | off'"),
        ("atime", "maybe", "'atime' must be one of 'on | off'"),
        ("snapdir", "shown", "'snapdir' must be one of 'hidden | visible'"),
        ("recordsize", "1000", "'recordsize' must be power of 2 from 512B to 1M"),
        ("recordsize", "100K", "'recordsize' must be power of 2 from 512B to 1M"),
        ("recordsize", "32M", "'recordsize' must be power of 2 from 512B to 1M"),
        ("recordsize", "2M", "'recordsize' must be power of 2 from 512B to 1M"),
        ("recordsize", "256", "'recordsize' must be power of 2 from 512B to 1M"),
        ("recordsize", "0", "'recordsize' must be power of 2 from 512B to 1M"),
        ("recordsize", "none", "'recordsize' must be power of 2 from 512B to 1M"),
        ("recordsize", "abc", "bad numeric value 'abc'"),
        ("quota", "-5", "bad numeric value '-5'"),
        ("quota", "0", "use 'none' to disable quota/refquota"),
        ("mountpoint", "relative", "'mountpoint' must be an absolute path, 'none', or 'legacy'"),
        ("mountpoint", "", "'mountpoint' must be an absolute path, 'none', or 'legacy'"),
        ("mountpoint", "/a/" + "x" * 256, "component of 'mountpoint' is too long"),
        ("mountpoint", "/a\udcff", "the value of 'mountpoint' is not valid UTF-8"),
        ("a:" + "b" * 254, "1", f"property name 'a:{'b' * 254}' is too long"),
        ("a:b", "x" * 8192, "property value too long"),
        ("a:b", "é" * 4096, "property value too long"),
        ("a:b", "\udcff", "the value of 'a:b' is not valid UTF-8"),
    ],
)
def test_refusals(name: str, value: str, reason: str) -> None:
    with pytest.raises(PropertyError) as caught:
        parse_value(name, value)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("name", "typed", "stored", "shown", "parsable"),
    [
        ("compression", "lz4", "lz4", "lz4", "lz4"),
        ("compress", "zstd-fast-1000", "zstd-fast-1000", "zstd-fast-1000", "zstd-fast-1000"),
        ("compression", "on", "on", "on", "on"),
        ("recordsize", "1M", "1048576", "1M", "1048576"),
        ("recsize", "65536", "65536", "64K", "65536"),
        ("recordsize", "512", "512", "512B", "512"),
        ("quota", "1G", "1073741824", "1G", "1073741824"),
        ("quota", "none", "0", "none", "0"),
        ("mountpoint", "/mnt/im", "/mnt/im", "/mnt/im", "/mnt/im"),
        ("mountpoint", "legacy", "legacy", "legacy", "legacy"),
        ("rdonly", "on", "on", "on", "on"),
        ("snapdir", "visible", "visible", "visible", "visible"),
        ("com.example:tag", "prod = 1", "prod = 1", "prod = 1", "prod = 1"),
        ("com.example:none", "none", "none", "none", "none"),
        ("a:empty", "", "", "", ""),
        ("a:b", "x" * 8191, "x" * 8191, "x" * 8191, "x" * 8191),
    ],
)
def test_typed_stored_printed(name: str, typed: str, stored: str, shown: str, parsable: str) -> None:
    full = native_name(name)
    assert parse_value(name, typed) == stored
    raw = raw_value(full, stored)
    assert format_value(full, raw) == shown
    assert format_value(full, raw, parsable=True) == parsable
    # What is printed for programs can be typed again (a quota's 0 is refused, as in OpenZFS).
    if not (full == "quota" and parsable == "0"):
        assert parse_value(name, parsable) == stored


def test_every_choice_of_compression_is_taken() -> None:
    fast = [*range(1, 11), *range(20, 101, 10), 500, 1000]
    wanted = ["on", "off", "lz4", "zle", "gzip", "zstd", "zstd-fast"]
    wanted += [f"gzip-{level}" for level in range(1, 10)] + [f"zstd-{level}" for level in range(1, 20)]
    wanted += [f"zstd-fast-{level}" for level in fast]
    assert all(parse_value("compression", word) == word for word in wanted)
    assert set(PROPERTIES["compression"].choices) == set(wanted)


def test_the_store_takes_every_compression_offered() -> None:
    codec = pytest.importorskip("lamina.store.codec")
    for word in PROPERTIES["compression"].choices:
        assert codec.parse_compression(word) is not None


@pytest.mark.parametrize(
    ("alias", "name", "header"),
    [
        ("avail", "available", "AVAIL"),
        ("refer", "referenced", "REFER"),
        ("ratio", "compressratio", "RATIO"),
        ("refratio", "refcompressratio", "REFRATIO"),
        ("compress", "compression", "COMPRESS"),
        ("lused", "logicalused", "LUSED"),
        ("lrefer", "logicalreferenced", "LREFER"),
        ("recsize", "recordsize", "RECSIZE"),
        ("rdonly", "readonly", "RDONLY"),
        ("usedds", "usedbydataset", "USEDDS"),
        ("usedsnap", "usedbysnapshots", "USEDSNAP"),
        ("usedchild", "usedbychildren", "USEDCHILD"),
        ("usedrefreserv", "usedbyrefreservation", "USEDREFRESERV"),
    ],
)
def test_aliases_and_headers(alias: str, name: str, header: str) -> None:
    assert native_name(alias) == native_name(name) == name
    assert PROPERTIES[name].header == header


def test_the_table_is_sound() -> None:
    wanted = [
        "type",
        "creation",
        "used",
        "available",
        "referenced",
        "usedbydataset",
        "usedbychildren",
        "usedbysnapshots",
        "unique",
        "compressratio",
        "dedupratio",
        "reduction",
        "logicalused",
        "logicalreferenced",
        "recordsize",
        "compression",
        "atime",
        "readonly",
        "snapdir",
        "quota",
        "mountpoint",
        "mounted",
        "origin",
        "guid",
        "createtxg",
    ]
    assert set(wanted) <= set(PROPERTIES)
    assert set(SPACE_COLUMNS) <= set(PROPERTIES)
    aliases = [alias for found in PROPERTIES.values() for alias in (found.name, *found.aliases)]
    assert len(aliases) == len(set(aliases))
    for name, found in PROPERTIES.items():
        assert found.header.isupper() and len(found.header) < 14
        # What can be set has a default that can be typed; what cannot has none.
        assert (found.default is None) == found.readonly
        if found.default is not None:
            typed = "none" if name in LIMITS else found.default
            assert parse_value(name, typed) == found.default
        assert found.inheritable <= found.settable
        assert name in describe_properties()
    assert default_value("mountpoint") == "none"
    assert default_value("compression") == "on"
    assert default_value("used") is None
    assert default_value("a:b") is None


def test_what_snapshots_have() -> None:
    names = [found.name for found in properties_for("snapshot")]
    assert {"type", "creation", "used", "referenced", "compressratio", "guid", "unique"} <= set(names)
    assert not {"available", "quota", "mountpoint", "compression", "logicalused", "usedbychildren"} & set(names)


def test_widths_as_zfs() -> None:
    # From the tables of the transcript: `get compression`, `get type`, `list -o snapdir`, `get used`.
    assert [PROPERTIES[name].width for name in ("compression", "type", "readonly", "used", "guid")] == [14, 10, 6, 5, 5]


def test_user_properties() -> None:
    assert is_user_property("com.example:tag") and is_user_property(":") and is_user_property("a:b:c-d_e.f9")
    assert not any(is_user_property(name) for name in ("a", "A:b", "a b:c", "ä:b", "a:b=c", ""))


def test_several_at_once() -> None:
    assert parse_properties({"compress": "lz4", "quota": "1K", "a:b": "c"}) == {
        "compression": "lz4",
        "quota": "1024",
        "a:b": "c",
    }
    with pytest.raises(PropertyError, match=r"^cannot set property for 'tank': 'atime' must be one of"):
        parse_properties({"compression": "lz4", "atime": "x"}, prefix="cannot set property for 'tank': ")
    with pytest.raises(PropertyError, match=r"^property 'compression' specified multiple times$"):
        parse_properties([("compression", "lz4"), ("compress", "on")])


def test_snapshots_take_user_properties_only() -> None:
    assert parse_properties({"a:b": "c"}, entry_type="snapshot") == {"a:b": "c"}
    for name in ("compression", "used", "bogus"):
        with pytest.raises(PropertyError, match=r"^this property can not be modified for snapshots$"):
            parse_properties({name: "lz4"}, entry_type="snapshot")


def test_inheriting() -> None:
    assert check_inherit("compress") == "compression"
    assert check_inherit("a:b") == "a:b"
    for name, words in (
        ("used", "used property is read-only"),
        ("quota", "'quota' property cannot be inherited; use 'lamina set quota=none' to clear"),
        ("bogus", "invalid property 'bogus'"),
    ):
        with pytest.raises(PropertyError) as caught:
            check_inherit(name)
        assert str(caught.value) == words


@pytest.mark.parametrize(
    ("value", "source", "dataset", "wanted"),
    [
        ("/tank", "tank", "tank/images", "/tank/images"),
        ("/tank", "tank", "tank/images/base", "/tank/images/base"),
        ("/", "tank", "tank/a", "/a"),
        ("/srv/", "tank/a", "tank/a/b", "/srv/b"),
        ("/tank", "tank", "tank", "/tank"),
        ("none", "tank", "tank/a", "none"),
        ("legacy", "tank", "tank/a", "legacy"),
    ],
)
def test_mount_points_grow_on_the_way_down(value: str, source: str, dataset: str, wanted: str) -> None:
    assert inherited_value("mountpoint", value, source, dataset) == wanted
    assert inherited_value("compression", "lz4", source, dataset) == "lz4"


def test_values_as_printed() -> None:
    assert format_value("used", None) == "-"
    assert format_value("used", 40304640) == "38.4M"
    assert format_value("used", 40304640, parsable=True) == "40304640"
    assert format_value("compressratio", 2.81) == "2.81x"
    assert format_value("compressratio", 2.81, parsable=True) == "2.81"
    assert format_value("guid", 12794081414436370584) == "12794081414436370584"
    assert format_value("creation", 1795434701, parsable=True) == "1795434701"
    assert format_value("quota", 0) == "none"
    assert format_value("usedbysnapshots", 0) == "0B"
    assert format_value("a:b", "text") == "text"
