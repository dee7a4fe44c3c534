"""The chain of a study drawn as a flow: how many instances came how far, and where the others were lost, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pacsifier_ops.runs.html import Html, escape, listed, tag

#: A column of the drawing, in its own units; the page stretches it to its width.
_COLUMN, _HEIGHT, _BAR = 100.0, 134.0, 7.0
#: The whole of a station, and the least that anything is drawn with, so that one image of a million still shows.
_FULL, _LEAST = 94.0, 3.0

#: Characters shown of a reason: the report has a table of them.
_LONGEST = 60


@dataclass(frozen=True)
class Dropout:
    """What does not come further.

    Attributes:
        kind: gives the colour, see `html.badge`.
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


def flow(stations: Sequence[Station]) -> Html:
    """Stations side by side, what goes from one to the next, and below what does not."""
    columns = len(stations)
    heads = [
        tag(
            "div",
            tag("div", station.name, class_="key"),
            tag("div", station.head or f"{station.count or 0:,}", style="font-size:20px;font-weight:650"),
            tag("div", station.said, class_="below"),
            style="padding-right:10px",
        )
        for station in stations
    ]
    losses = [tag("div", *map(_lost, station.lost), style="padding-right:10px") for station in stations]
    drawing = tag(
        "svg",
        *_drawn(stations),
        viewBox=f"0 0 {columns * _COLUMN:.0f} {_HEIGHT:.0f}",
        preserveAspectRatio="none",
        role="img",
        aria_label=_said(stations),
        style=f"height:{_HEIGHT:.0f}px;grid-column:1/-1;margin:6px 0 8px",
    )
    grid = f"display:grid;grid-template-columns:repeat({columns},minmax(0,1fr));min-width:{columns * 118}px"
    whole = tag("div", *heads, drawing, *losses, style=grid)
    return tag("div", whole, class_="scroll", role="region", tabindex="0", aria_label="The chain")


def _lost(lost: Dropout) -> Html:
    return tag(
        "div",
        tag("span", f"\u2212{lost.count:,} {lost.name}", class_=lost.kind, style="font-weight:600"),
        *(tag("div", _short(why), class_="below") for why in lost.why),
        style="margin-bottom:8px;font-size:12.5px;overflow-wrap:anywhere",
    )


def _short(why: str) -> str:
    return why if len(why) <= _LONGEST else f"{why[:_LONGEST].rpartition(' ')[0]} \u2026"


def _said(stations: Sequence[Station]) -> str:
    """The drawing in words."""
    parts = []
    for station in stations:
        lost = listed([f"{lost.count:,} {lost.name}" for lost in station.lost])
        parts.append(f"{station.head or station.count} {station.name.lower()}" + (f" ({lost} before)" if lost else ""))
    return "; ".join(parts)


def _drawn(stations: Sequence[Station]) -> list[Html]:
    most = max([station.count for station in stations if station.count is not None], default=0)

    def high(count: int) -> float:
        return max(_LEAST, _FULL * count / most) if count else 0.0

    shapes: list[Html] = []
    for place, station in enumerate(stations):
        left = place * _COLUMN
        if station.count is None:
            shapes.append(_box(left, 0, _BAR, _FULL, "listed", "0.5"))
            if place + 1 < len(stations):
                line = f"M{left + _BAR + 6:.1f} {_FULL / 2:.1f}H{left + _COLUMN - 6:.1f}"
                shapes.append(
                    tag("path", d=line, class_="listed", fill="none", stroke="currentColor", stroke_dasharray="2 5")
                )
            continue
        good, doubt = high(station.count - station.doubt), high(station.doubt)
        if place and stations[place - 1].count is not None:
            shapes += _ribbons(left, station, good + doubt, high)
        shapes.append(_box(left, 0, _BAR, good, "good" if place + 1 == len(stations) else "fresh"))
        shapes.append(_box(left, good, _BAR, doubt, "doubt"))
        if place + 1 == len(stations) and station.count:
            shapes.append(_arrow(left + _BAR, good + doubt))
        if not station.count:
            shapes.append(_box(left, 0, _BAR, _LEAST, "empty"))
    return shapes


def _ribbons(left: float, station: Station, height: float, high: Callable[[int], float]) -> list[Html]:
    """What comes to a station from the one before, and what falls off on the way."""
    start, middle = left - _COLUMN + _BAR, left - _COLUMN / 2
    shapes = []
    if height:
        shapes.append(_box(start, 0, _COLUMN - _BAR, height, "fresh", "0.2"))
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
        shapes.append(tag("path", d=curve, class_=f"fill {lost.kind}", fill_opacity="0.5"))
        top += thick
    return shapes


def _arrow(x: float, height: float) -> Html:
    """What has come to its end, on its way out."""
    neck, tip = x + 62, x + 74
    shape = f"M{x:.1f} 0H{neck:.1f}L{tip:.1f} {height / 2:.1f}L{neck:.1f} {height:.1f}H{x:.1f}Z"
    return tag("path", d=shape, class_="fill good", fill_opacity="0.2")


def _box(x: float, y: float, width: float, height: float, kind: str, opacity: str = "1") -> Html:
    if not height:
        return escape("")
    at = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": f"{width:.1f}", "height": f"{height:.1f}"}
    return tag("rect", **at, class_=f"fill {kind}", fill_opacity=opacity)
