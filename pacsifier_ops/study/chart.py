"""Draws the stages of a study as a flow: how many instances reached each, and where and why the others were lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pacsifier_ops.base.words import listed

#: Width of a column, height of the drawing, width of a bar, in units of the drawing. The page scales it to its width.
_COLUMN, _HEIGHT, _BAR = 100.0, 134.0, 7.0
#: Height of all instances, and least height of a shape: one image of a million is still visible.
_FULL, _LEAST = 94.0, 3.0


@dataclass(frozen=True)
class Dropout:
    """Instances that do not reach a station, in one state.

    Attributes:
        kind: gives the colour, as that of a badge does.
        name: the state.
        count: number of instances.
        why: reasons, the most frequent first.
    """

    kind: str
    name: str
    count: int
    why: Sequence[str] = ()


@dataclass(frozen=True)
class Station:
    """A point that instances reach.

    Attributes:
        name: state of the instances that reach it.
        count: number of these instances; None for a station that does not count instances.
        said: remark in small print.
        lost: instances that reached the station before, and not this one.
        doubt: number of those that are unverifiable.
        head: the number that is shown; default: the count.
    """

    name: str
    count: int | None
    said: str = ""
    lost: Sequence[Dropout] = ()
    doubt: int = 0
    head: str = ""

    @property
    def shown(self) -> str:
        """The number that is shown."""
        return self.head or f"{self.count or 0:,}"


@dataclass(frozen=True)
class Shape:
    """A path of SVG, filled or as a dashed line."""

    path: str
    kind: str
    opacity: str = "1"
    dashed: bool = False


@dataclass(frozen=True)
class Flow:
    """A drawing of stations side by side. Ribbons lead from one to the next, and down for lost instances.

    Attributes:
        stations: the stations.
        said: the drawing in words.
        shapes: the drawing, `width` by `height` units.
    """

    stations: Sequence[Station]
    said: str
    shapes: Sequence[Shape]
    width: str
    height: str


def flow(stations: Sequence[Station]) -> Flow:
    """Return the drawing of stations."""
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
    """Yield the ribbon from the station before, and those of the instances that are lost on the way."""
    start, middle = left - _COLUMN + _BAR, left - _COLUMN / 2
    if height:
        yield _box(start, 0, _COLUMN - _BAR, height, "fresh", "0.2")
    top = height
    for place, lost in enumerate(station.lost):
        thick, wide = high(lost.count), 3.0
        # The lowest ribbon turns down first, so that none crosses another.
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
    """Return the arrow behind the last station."""
    neck, tip = x + 62, x + 74
    shape = f"M{x:.1f} 0H{neck:.1f}L{tip:.1f} {height / 2:.1f}L{neck:.1f} {height:.1f}H{x:.1f}Z"
    return Shape(shape, "good", "0.2")


def _box(x: float, y: float, width: float, height: float, kind: str, opacity: str = "1") -> Shape:
    return Shape(f"M{x:.1f} {y:.1f}h{width:.1f}v{height:.1f}h{-width:.1f}Z", kind, opacity)
