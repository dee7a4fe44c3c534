"""Retrieval windows: the times of day at which a node lets its images be transferred."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from pacsifier_ops.base.errors import ConfigError

_DAY = 24 * 3600
_TIME = r"(\d{1,2}):(\d{2})(?::(\d{2}))?"
_SPAN = re.compile(rf"\s*{_TIME}\s*-\s*{_TIME}\s*", re.ASCII)


def zone_of(name: str) -> ZoneInfo | None:
    """The time zone of an IANA name; None, the system's, for an empty one.

    Raises:
        ConfigError: there is no zone of that name.
    """
    if not name:
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ConfigError("timezone is not the name of a time zone; give one such as Europe/Zurich") from None


@dataclass(frozen=True)
class Window:
    """When images may be transferred.

    A time that the clock skips in spring counts as if it had not been changed yet, of one that it shows twice in
    autumn the first counts (PEP 495).

    Attributes:
        spans: begin and end in seconds after midnight, on the clock; the end may lie in the next day. None: always.
        weekends: Saturdays and Sundays are open all day.
        zone: whose clock; None is the system's.
    """

    spans: tuple[tuple[int, int], ...] = ()
    weekends: bool = False
    zone: ZoneInfo | None = None

    @classmethod
    def parse(cls, text: str, weekends: bool = False, zone: ZoneInfo | None = None) -> Window:
        """The window of a text such as `20:00-06:00`, several separated by commas; empty: always open.

        Raises:
            ConfigError: the text is none.
        """
        spans = tuple(_span(part) for part in text.split(",")) if text.strip() else ()
        return cls(spans, weekends, zone)

    def opens_at(self, now: dt.datetime) -> dt.datetime | None:
        """When the window opens next, on its own clock; None if it is open.

        Args:
            now: with a zone, any.
        """
        if not self.spans:
            return None
        spans = list(self._around(now.astimezone(self.zone).date()))
        if any(begin <= now < end for begin, end in spans):
            return None
        return min(begin for begin, _ in spans if begin > now).astimezone(self.zone)

    def _around(self, today: dt.date) -> Iterator[tuple[dt.datetime, dt.datetime]]:
        """Begin and end of the spans from yesterday, which may last until today, to the day after tomorrow, in UTC."""
        for offset in range(-1, 3):
            day = today + dt.timedelta(offset)
            for begin, end in [(0, _DAY)] if self.weekends and day.weekday() >= 5 else self.spans:
                span = self._moment(day, begin), self._moment(day, end)
                if span[0] < span[1]:  # not so for a short one in the hour that the clock skips
                    yield span

    def _moment(self, day: dt.date, seconds: int) -> dt.datetime:
        # Seconds are added on the clock, not in elapsed time: 20:00 is 20:00 on the day of a change, too.
        shown = dt.datetime.combine(day, dt.time()) + dt.timedelta(seconds=seconds)
        return (shown.replace(tzinfo=self.zone) if self.zone else shown).astimezone(dt.UTC)


def _span(text: str) -> tuple[int, int]:
    if (match := _SPAN.fullmatch(text)) is None:
        raise ConfigError("window is not a time of day; give one such as 20:00-06:00, several separated by commas")
    begin, end = _seconds(*match.groups()[:3]), _seconds(*match.groups()[3:])
    if begin == end:
        raise ConfigError("window begins and ends at the same time; leave it empty for always")
    if begin == _DAY:
        raise ConfigError("window begins at 24:00; give 00:00")
    return begin, end if end > begin else end + _DAY


def _seconds(hours: str, minutes: str, seconds: str | None) -> int:
    total = int(hours) * 3600 + int(minutes) * 60 + int(seconds or 0)
    if int(minutes) > 59 or int(seconds or 0) > 59 or total > _DAY:
        raise ConfigError("window has a time that no clock shows; give times from 00:00 to 24:00")
    return total
