"""The chain of a study drawn as a flow: how many instances came how far, and where the others were lost, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pacsifier_ops.base.words import listed

#: A column of the drawing, in its own units; the page stretches it to its width.
_COLUMN, _HEIGHT, _BAR = 100.0, 134.0, 7.0
#: The whole of a station, and the least that anything is drawn with, so that one image of a million still shows.
_FULL, _LEAST = 94.0, 3.0


@dataclass(frozen=True)
class Dropout:
    """What does not come further.

    Attributes:
        kind: gives the colour, as that of a badge does.
        name: the state, in a word.
        count: how many.
        why: reasons, most first.
    """

    kind: str
    name: str
    count: int
    why: Sequence[str] = ()


@dataclass(frozen=True)
class Station:
    """A place that instances come to.

    Attributes:
        name: what they are there.
        count: how many came so far; None for a station that counts something else, with its `said`.
        said: what is told of it, in small print.
        lost: those that came to the station before, and not to this one.
        doubt: of those that came, how many are unverifiable.
        head: the number that is shown; by default the count.
    """

    name: str
    count: int | None
    said: str = ""
    lost: Sequence[Dropout] = ()
    doubt: int = 0
    head: str = ""

    @property
    def shown(self) -> str:
        """Its number."""
        return self.head or f"{self.count or 0:,}"


@dataclass(frozen=True)
class Shape:
    """What is drawn: a path of SVG, filled, or as a dashed line."""

    path: str
    kind: str
    opacity: str = "1"
    dashed: bool = False


@dataclass(frozen=True)
class Flow:
    """Stations side by side, what goes from one to the next, and below what does not.

    Attributes:
        said: the drawing in words.
        shapes: the drawing, `width` by `height` units.
    """

    stations: Sequence[Station]
    said: str
    shapes: Sequence[Shape]
    width: str
    height: str


def flow(stations: Sequence[Station]) -> Flow:
    """The drawing of the stations."""
    width = f"{len(stations) * _COLUMN:.0f}"
    return Flow(stations, _said(stations), [*_drawn(stations)], width, f"{_HEIGHT:.0f}")


def _said(stations: Sequence[Station]) -> str:
    parts = []
    for station in stations:
        lost = listed([f"{lost.count:,} {lost.name}" for lost in station.lost])
        parts.append(f"{station.head or station.count} {station.name.lower()}" + (f" ({lost} before)" if lost else ""))
    return "; ".join(parts)


def _drawn(stations: Sequence[Station]) -> Iterator[Shape]:
    most = max([station.count for station in stations if station.count is not None], default=0)

    def high(count: int) -> float:
        return max(_LEAST, _FULL * count / most) if count else 0.0

    for place, station in enumerate(stations):
        left, last = place * _COLUMN, place + 1 == len(stations)
        if station.count is None:
            yield _box(left, 0, _BAR, _FULL, "listed", "0.5")
            if not last:
                yield Shape(f"M{left + _BAR + 6:.1f} {_FULL / 2:.1f}H{left + _COLUMN - 6:.1f}", "listed", dashed=True)
            continue
        good, doubt = high(station.count - station.doubt), high(station.doubt)
        if place and stations[place - 1].count is not None:
            yield from _ribbons(left, station, good + doubt, high)
        if good:
            yield _box(left, 0, _BAR, good, "good" if last else "fresh")
        if doubt:
            yield _box(left, good, _BAR, doubt, "doubt")
        if last and station.count:
            yield _arrow(left + _BAR, good + doubt)
        if not station.count:
            yield _box(left, 0, _BAR, _LEAST, "empty")


def _ribbons(left: float, station: Station, height: float, high: Callable[[int], float]) -> Iterator[Shape]:
    """What comes to a station from the one before, and what falls off on the way."""
    start, middle = left - _COLUMN + _BAR, left - _COLUMN / 2
    if height:
        yield _box(start, 0, _COLUMN - _BAR, height, "fresh", "0.2")
    top = height
    for place, lost in enumerate(station.lost):
        thick, wide = high(lost.count), 3.0
        # The lowest turns down first, so that none crosses another.
        end = left + 1.0 + (len(station.lost) - 1 - place) * (wide + 1.5)
        low = _HEIGHT - 4.0
        curve = (
            f"M{start:.1f} {top:.1f}C{middle:.1f} {top:.1f} {end + wide:.1f} {top:.1f} {end + wide:.1f} {low:.1f}"
            f"H{end:.1f}C{end:.1f} {top + thick:.1f} {middle - wide:.1f} {top + thick:.1f} {start:.1f} "
            f"{top + thick:.1f}Z"
        )
        yield Shape(curve, lost.kind, "0.5")
        top += thick


def _arrow(x: float, height: float) -> Shape:
    """What has come to its end, on its way out."""
    neck, tip = x + 62, x + 74
    shape = f"M{x:.1f} 0H{neck:.1f}L{tip:.1f} {height / 2:.1f}L{neck:.1f} {height:.1f}H{x:.1f}Z"
    return Shape(shape, "good", "0.2")


def _box(x: float, y: float, width: float, height: float, kind: str, opacity: str = "1") -> Shape:
    return Shape(f"M{x:.1f} {y:.1f}h{width:.1f}v{height:.1f}h{-width:.1f}Z", kind, opacity)
