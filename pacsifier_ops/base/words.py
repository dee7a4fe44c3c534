"""Counts, sizes, times and lists as people read them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime


def listed(parts: Sequence[str]) -> str:
    """Words as a list in a sentence: a, b and c."""
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)


def plural(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def size(count: float) -> str:
    """Bytes in decimal units, three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.95 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def duration(seconds: float | None) -> str:
    """Seconds in the units that fit; None is not known."""
    if seconds is None:
        return "not known"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02} min {rest:02} s" if hours else f"{minutes} min {rest:02} s"


def moment(iso: str) -> datetime | None:
    """An ISO 8601 time; None where the text is none."""
    try:
        return datetime.fromisoformat(iso)
    except ValueError:
        return None


def clock(iso: str) -> str:
    """An ISO 8601 time to the second, its parts set apart; empty where the text is none."""
    time = moment(iso)
    return re.sub(r"(?=[+-]\d\d:\d\d$)", " ", time.isoformat(" ", "seconds")) if time else ""
