"""Numbers as people read and type them, exactly as OpenZFS formats and parses them.

Sources: ``zfs_nicenum_format`` (lib/libzutil), ``zfs_nicestrtonum`` and the date format of ``zfs_prop_get``
(lib/libzfs), OpenZFS 2.3.
"""

import math
import re
import time

from lamina.errors import PropertyError

_UNITS = "BKMGTPE"
_SUFFIXES = "BKMGTPEZ"
_MAX_UINT64 = 2**64 - 1
_NUMBER = re.compile(r"([0-9]*)(\.[0-9]*)?")
_SUFFIX = re.compile(r"[bB]|[kKmMgGtTpPeEzZ](?:[iI]?[bB])?")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def format_size(size: int) -> str:
    """Return ``size`` bytes in at most five columns: ``0B``, ``96K``, ``38.4M``, ``107M``, ``8.36M``.

    An exact multiple of the unit has no decimals; else as many (two, one or none) as fit.
    """
    if size < 0:
        return "-" + format_size(-size)
    exponent = 0
    whole = size
    while whole >= 1024 and exponent < len(_UNITS) - 1:
        whole //= 1024
        exponent += 1
    unit = _UNITS[exponent]
    scale = 1024**exponent
    if exponent == 0 or size % scale == 0:
        return f"{whole}{unit}"
    value = size / scale
    text = ""
    for decimals in (2, 1, 0):
        text = f"{value:.{decimals}f}{unit}"
        if len(text) <= 5:
            break
    return text


def parse_size(text: str) -> int:
    """Return the bytes that ``128K``, ``1.5T``, ``10GiB`` or ``4096`` mean; PropertyError in OpenZFS's words."""
    if not text[:1].isascii() or not (text[:1].isdigit() or text[:1] == "."):
        raise PropertyError(f"bad numeric value '{text}'")
    match = _NUMBER.match(text)
    assert match is not None  # every part of the pattern is optional
    whole, fraction = match.group(1), match.group(2)
    suffix = text[match.end() :]
    shift = 0
    if suffix:
        if not _SUFFIX.fullmatch(suffix):
            raise PropertyError(f"invalid numeric suffix '{suffix}'")
        shift = 10 * _SUFFIXES.index(suffix[0].upper())
    if len(whole) > 20:
        raise PropertyError("numeric value is too large")
    # As OpenZFS: whole numbers are exact, those with a point are computed as doubles and cut off.
    value = int(whole) << shift if fraction is None else int(float(f"{whole or 0}{fraction}0") * 2.0**shift)
    if value > _MAX_UINT64:
        raise PropertyError("numeric value is too large")
    return value


def format_ratio(ratio: float, parsable: bool = False) -> str:
    """Return a ratio with two decimals, cut off and not rounded, as ``2.81x`` (parsable: ``2.81``)."""
    # A float such as 2.81 lies a hair below its name: without the nudge the cut would make 2.80 of it.
    hundredths = math.floor(ratio * 100 + 1e-9)
    text = f"{hundredths // 100}.{hundredths % 100:02d}"
    return text if parsable else text + "x"


def format_date(seconds: int) -> str:
    """Return local time as ``Mon Nov 23 11:51 2026`` (strftime ``%a %b %e %k:%M %Y``, always in English)."""
    try:
        when = time.localtime(seconds)
    except (OverflowError, OSError, ValueError):
        return str(seconds)
    return (
        f"{_DAYS[when.tm_wday]} {_MONTHS[when.tm_mon - 1]} {when.tm_mday:2d} "
        f"{when.tm_hour:2d}:{when.tm_min:02d} {when.tm_year}"
    )
