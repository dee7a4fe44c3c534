"""Retrieval windows: times of day at which images may be transferred from a node."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from pacsifier_ops.base.errors import ConfigError

_DAY = 24 * 3600
_YEAR = 365 * _DAY
_TIME = r"(\d{1,2}):(\d{2})(?::(\d{2}))?"
_SPAN = re.compile(rf"\s*{_TIME}\s*-\s*{_TIME}\s*", re.ASCII)


def zone_of(name: str) -> ZoneInfo | None:
    """Return the time zone of an IANA name; None (the system's zone) for an empty name.

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
    """The times at which images may be transferred.

    A clock time that is skipped in spring counts as if the clock had not been changed. Of a clock time that occurs
    twice in autumn the first one counts (PEP 495).

    Attributes:
        spans: begin and end in seconds after midnight, in clock time; the end may be on the next day. Empty: always
            open.
        weekends: Saturdays and Sundays are open all day.
        zone: time zone of the clock; None is the system's.
    """

    spans: tuple[tuple[int, int], ...] = ()
    weekends: bool = False
    zone: ZoneInfo | None = None

    @classmethod
    def parse(cls, text: str, weekends: bool = False, zone: ZoneInfo | None = None) -> Window:
        """Parse a text such as `20:00-06:00`, several spans separated by commas; empty: always open.

        Raises:
            ConfigError: the text is no window.
        """
        spans = tuple(_span(part) for part in text.split(",")) if text.strip() else ()
        return cls(spans, weekends, zone)

    def opens_at(self, now: dt.datetime) -> dt.datetime | None:
        """Return when the window opens next, in its own zone; None if it is open.

        Args:
            now: the current time, with any zone.
        """
        if not self.spans:
            return None
        spans = list(self._around(now.astimezone(self.zone).date()))
        if any(begin <= now < end for begin, end in spans):
            return None
        return min(begin for begin, _ in spans if begin > now).astimezone(self.zone)

    def closes_at(self, now: dt.datetime) -> dt.datetime | None:
        """Return when the window, which is open, closes; None if it is always open. Another span may begin then."""
        if not self.spans:
            return None
        return max(end for begin, end in self._around(now.astimezone(self.zone).date()) if begin <= now < end)

    def after(self, now: dt.datetime, seconds: float) -> dt.datetime | None:
        """Return when the window will have been open for a number of seconds from now on; None: not within a year."""
        at, left = now, dt.timedelta(seconds=min(seconds, _YEAR))
        while at - now < dt.timedelta(seconds=_YEAR):
            at = self.opens_at(at) or at
            closes = self.closes_at(at)
            if closes is None or at + left <= closes:
                return at + left
            left -= closes - at
            at = closes
        return None

    def _around(self, today: dt.date) -> Iterator[tuple[dt.datetime, dt.datetime]]:
        """Yield begin and end of spans in UTC, from yesterday (they may last until today) to the day after tomorrow."""
        for offset in range(-1, 3):
            day = today + dt.timedelta(offset)
            for begin, end in [(0, _DAY)] if self.weekends and day.weekday() >= 5 else self.spans:
                span = self._moment(day, begin), self._moment(day, end)
                if span[0] < span[1]:  # False for a short span in the hour that the clock skips
                    yield span

    def _moment(self, day: dt.date, seconds: int) -> dt.datetime:
        # Add seconds in clock time, not in elapsed time: 20:00 stays 20:00 on the day of a change.
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
