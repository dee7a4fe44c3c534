"""The flow of a cohort, as papers draw it: asked, found, eligible, selected, fetched, delivered; and what was left out.

A patient, a study, a row is where its series are that come furthest. So at each stage those that reached it and those
that were left out before it add up to those that reached the stage before.
"""

from __future__ import annotations

import textwrap
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from html import escape
from pathlib import Path

from pacsifier_ops.base import cells
from pacsifier_ops.base.files import write_atomic
from pacsifier_ops.base.words import plural

#: The stages, in order. MOVED stands in place of FETCHED where the archive sends to another node.
ASKED, FOUND, ELIGIBLE, SELECTED = "asked", "found", "eligible", "selected"
FETCHED, MOVED, DELIVERED = "fetched", "moved", "delivered"

#: What is counted.
LEVELS = ("rows", "patients", "studies", "series", "instances")

#: Files of the flow in the folder of a run.
TABLE, PICTURE = "flow.csv", "flow.svg"


@dataclass(frozen=True)
class FlowLine:
    """A line of the flow; None: it is not counted there.

    Attributes:
        stage: one of the stages.
        left_out: why those of this line did not reach it; empty: they did.
        rows, patients, studies, series, instances: numbers.
    """

    stage: str
    left_out: str = ""
    rows: int | None = None
    patients: int | None = None
    studies: int | None = None
    series: int | None = None
    instances: int | None = None


#: An entity by how far it came: step and number of the reason, and instances of a series.
_REASON, _INSTANCES = 2**16, 2**40


class Tally:
    """Counts series, and what they belong to, by how far they come. A series takes about 100 bytes.

    Args:
        weights: number of rows that a line stands for, where that is not one.
    """

    def __init__(self, weights: Mapping[int, int] | None = None) -> None:
        self._weights = weights or {}
        self._reasons: dict[str, int] = {}
        self._names: list[str] = []
        self._reached: dict[str, dict[int, int]] = {level: {} for level in LEVELS[:-1]}

    def add(
        self, step: int, reason: str, lines: Iterable[int], patient: str, study: str, series: str, instances: int
    ) -> None:
        """Count a series: it came as far as `step`, and no further because of `reason`."""
        if reason not in self._reasons:
            self._reasons[reason] = len(self._names)
            self._names.append(reason)
        code = step * _REASON + self._reasons[reason]
        for line in lines:
            self._take("rows", line, code)
        self._take("patients", _key(patient), code)
        self._take("studies", _key(patient, study), code)
        key = _key(study, series)
        before = self._reached["series"].get(key)
        if before is None or code // _REASON > before // _INSTANCES // _REASON:
            count = instances if before is None else before % _INSTANCES
            self._reached["series"][key] = code * _INSTANCES + min(count, _INSTANCES - 1)

    def _take(self, level: str, key: int, code: int) -> None:
        known = self._reached[level]
        before = known.get(key)
        if before is None or code // _REASON > before // _REASON:
            known[key] = code

    def line(self, stage: str, least: int) -> FlowLine:
        """Return the line of those that came as far as `least`, or further."""
        totals = dict.fromkeys(LEVELS, 0)
        for level, step, _, count in self._counted():
            totals[level] += count if step >= least else 0
        return FlowLine(stage, "", **totals)

    def left_out(self, stage: str, least: int, most: int) -> Iterator[FlowLine]:
        """Yield a line for each reason of those that came as far as `least` to `most`, in the order of the steps."""
        sums: dict[str, dict[str, int]] = {}
        steps: dict[str, int] = {}
        for level, step, reason, count in self._counted():
            if least <= step <= most:
                sums.setdefault(reason, dict.fromkeys(LEVELS, 0))[level] += count
                steps[reason] = min(step, steps.get(reason, step))
        for reason in sorted(sums, key=lambda name: (steps[name], -sums[name]["series"], name)):
            yield FlowLine(stage, reason, **sums[reason])

    def _counted(self) -> Iterator[tuple[str, int, str, int]]:
        """Yield level, step, reason and number, each once."""
        for level, known in self._reached.items():
            counts: dict[int, int] = {}
            instances: dict[int, int] = {}
            for key, code in known.items():
                if level == "series":
                    code, of_series = divmod(code, _INSTANCES)
                    instances[code] = instances.get(code, 0) + of_series
                weight = self._weights.get(key, 1) if level == "rows" else 1
                counts[code] = counts.get(code, 0) + weight
            for code, count in counts.items():
                yield level, code // _REASON, self._names[code % _REASON], count
            for code, count in instances.items():
                yield LEVELS[-1], code // _REASON, self._names[code % _REASON], count


def _key(*parts: str) -> int:
    """Return a short name of an entity; equal ones of different entities are not to be expected."""
    return int.from_bytes(blake2b("\0".join(parts).encode(errors="replace"), digest_size=8).digest(), "little")


def as_csv(lines: Sequence[FlowLine]) -> str:
    """Return the flow as a table."""
    rows = [tuple(field.name for field in fields(FlowLine)), *(tuple(asdict(line).values()) for line in lines)]
    return "".join(map(cells.line, rows))


def write_flow(folder: Path, lines: Sequence[FlowLine]) -> None:
    """Write TABLE and PICTURE into the folder of a run; nothing for a flow without lines.

    Raises:
        OSError: one of them cannot be written.
    """
    if lines:
        write_atomic(folder / TABLE, as_csv(lines))
        write_atomic(folder / PICTURE, as_svg(lines))


# The picture

_TITLES = {
    ASKED: "Asked",
    FOUND: "Found in the archive",
    ELIGIBLE: "Eligible",
    SELECTED: "Selected",
    FETCHED: "Fetched",
    MOVED: "Sent by the archive",
    DELIVERED: "Delivered",
}
#: Units of the picture: width and margin of a column of boxes, height of a line, inner margin, characters of a line.
_WIDE, _SIDE, _GAP, _LINE, _INNER, _LETTERS = 270, 450, 50, 17, 10, 58


def as_svg(lines: Sequence[FlowLine]) -> str:
    """Return the flow as a picture, SVG 1.1, that stands alone and in a page."""
    shapes: list[str] = []
    top, before = 1, 0.0
    for stage in dict.fromkeys(line.stage for line in lines):
        left = [line for line in lines if line.stage == stage and line.left_out]
        reached = next((line for line in lines if line.stage == stage and not line.left_out), None)
        if before and left:
            words = [part for line in left for part in textwrap.wrap(_lost(line), _LETTERS, subsequent_indent="  ")]
            height = _box(shapes, _WIDE + _GAP, top, _SIDE, ["Left out", *words])
            middle = top + height / 2
            shapes.append(_arrow(_WIDE / 2, middle, _WIDE + _GAP, middle))
            top += height + 16
        elif before:
            top += 24
        if reached is None:
            continue
        if before:
            shapes.append(_arrow(_WIDE / 2, before, _WIDE / 2, top))
        top += _box(shapes, 1, top, _WIDE - 2, [_TITLES[stage], *_counts(reached)])
        before = float(top)
        top += 16
    width, height = _WIDE + _GAP + _SIDE + 2, max(int(before), top - 16) + 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" font-family="Helvetica, Arial, sans-serif" font-size="13">'
        f"<title>{escape(said(lines))}</title>"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8Z" fill="#333"/></marker></defs>'
        f'<rect width="{width}" height="{height}" fill="#fff"/>{"".join(shapes)}</svg>'
    )


@dataclass(frozen=True)
class Drawing:
    """A flow as a page shows it.

    Attributes:
        picture: SVG, to be inserted as it is.
        rows: the lines of the table.
        files: name and address of the files to take along.
    """

    picture: str
    rows: Sequence[tuple[object, ...]]
    files: Sequence[tuple[str, str]]


def drawing(lines: Sequence[FlowLine]) -> Drawing | None:
    """Return a flow as a page shows it; None for one without lines."""
    if not lines:
        return None
    picture = as_svg(lines)
    files = ((PICTURE, "image/svg+xml", picture), (TABLE, "text/csv", as_csv(lines)))
    return Drawing(
        picture,
        [(_TITLES[line.stage] if not line.left_out else f"left out: {line.left_out}", *_shown(line)) for line in lines],
        [(name, f"data:{kind};base64,{b64encode(text.encode()).decode()}") for name, kind, text in files],
    )


def _shown(line: FlowLine) -> Iterator[object]:
    return ("" if (count := getattr(line, level)) is None else count for level in LEVELS)


def said(lines: Sequence[FlowLine]) -> str:
    """Return the flow in words."""
    return "; ".join(
        f"{line.left_out or _TITLES[line.stage]}: {', '.join(_counts(line))}" for line in lines if _counts(line)
    )


_NAMES = {
    "rows": ("row", ""),
    "patients": ("patient", ""),
    "studies": ("study", "studies"),
    "series": ("series", "series"),
}


def _number(line: FlowLine, level: str) -> str:
    count = getattr(line, level)
    one, several = _NAMES.get(level, ("image", ""))
    return plural(count, one, several or f"{one}s") if count else ""


def _counts(line: FlowLine) -> list[str]:
    """Return the numbers of a line in words, in a few short lines."""
    pairs = (("patients", "studies"), ("series", "instances"), ("rows",))
    told = [", ".join(filter(None, (_number(line, level) for level in pair))) for pair in pairs]
    return list(filter(None, told)) or ["nothing"]


def _lost(line: FlowLine) -> str:
    levels = ("patients", "studies", "series", "instances") if line.series is not None else ("rows", "instances")
    return f"{line.left_out}: {', '.join(filter(None, (_number(line, level) for level in levels))) or 'none'}"


def _box(shapes: list[str], x: float, y: float, width: float, words: Sequence[str]) -> int:
    """Draw a box with lines of text; return its height."""
    height = len(words) * _LINE + 2 * _INNER
    shapes.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="3" fill="#fff" stroke="#333"/>')
    for place, text in enumerate(words):
        weight = ' font-weight="bold"' if not place else ""
        at = y + _INNER + _LINE * (place + 1) - 4
        shapes.append(f'<text x="{x + _INNER}" y="{at}" fill="#111"{weight} xml:space="preserve">{escape(text)}</text>')
    return height


def _arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    return f'<path d="M{x} {y}L{to_x} {to_y}" stroke="#333" fill="none" marker-end="url(#tip)"/>'
