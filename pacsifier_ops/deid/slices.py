"""The slices of a series: how they lie one behind the other, and what is wrong with them.

The places of slices are the projections of ImagePositionPatient on the normal of ImageOrientationPatient (PS3.3
C.7.6.2.1.1), never SliceLocation, SliceThickness or InstanceNumber, which devices fill as they like. A gantry tilt
therefore changes no spacing.

Judged is the stack of parallel slices that holds more than half of the images. A localizer, whose few images cross, has
none. Images at the same place are time points, echoes and the like, and no slice counts as missing because of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import NamedTuple

#: Largest difference of direction cosines of parallel slices: 0.6 degrees.
SAME_DIRECTION = 0.01
#: Largest distance of images at the same place, along the normal; across it, beside each other. In mm.
SAME_PLACE, BESIDE = 0.01, 1.0
#: Tolerance of a spacing: the larger one of this share of it and so many mm, and at most the second share.
SHARE, MM, MOST_SHARE = 0.05, 0.1, 0.25
#: Tilt from which a stack is tilted, in degrees.
TILTED = 0.5
#: Words of descriptions of localizers.
LOCALIZERS = ("localizer", "localiser", "scout", "topogram", "surview", "scanogram", "survey")


class Frame(NamedTuple):
    """An image in space.

    Attributes:
        position: ImagePositionPatient, mm.
        orientation: ImageOrientationPatient.
        apart: changes with what tells images at the same position apart: times, echo, b-value and the like.
    """

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    apart: str


@dataclass
class Slices:
    """What is known of the slices of a series. None: it was not judged.

    Attributes:
        orientations: number of different orientations; 0 where no image has one.
        slices: number of places in the stack that is judged.
        spacing: median distance of neighbouring places along the normal, mm.
        tilt: angle between the normal and the line from the first place to the last, degrees.
        volumes: largest number of images at one place, without duplicates.
        missing: number of slices that are missing between others.
        uneven: neighbouring slices have other distances, and it is not for single missing slices.
        duplicates: number of images that are second copies of one at the same place.
        incomplete: places have different numbers of images: a volume was not completed, or images of it are missing.
        positions: place of each image along the normal, in mm; None outside the stack.
        copies: indexes of the duplicates.
    """

    orientations: int = 0
    slices: int | None = None
    spacing: float | None = None
    tilt: float | None = None
    volumes: int | None = None
    missing: int | None = None
    uneven: bool | None = None
    duplicates: int | None = None
    incomplete: bool | None = None
    positions: Sequence[float | None] = ()
    copies: frozenset[int] = frozenset()


def is_localizer(image_type: str, texts: Iterable[str]) -> bool:
    """Return whether a series is a localizer, by its ImageType or by words in its descriptions."""
    if {"LOCALIZER", "SCOUT"} & set(image_type.upper().split("\\")):
        return True
    return any(word in text.casefold() for text in texts for word in LOCALIZERS)


def tolerance(spacing: float) -> float:
    """Return by how much a distance may differ from the spacing, in mm."""
    return max(SHARE * spacing, min(MM, MOST_SHARE * spacing)) + 1e-6


def judge(frames: Sequence[Frame], numbers: Sequence[object] = ()) -> Slices:
    """Judge the slices of a series.

    Args:
        frames: its images.
        numbers: InstanceNumber of each image; empty where images have none of their own.
    """
    stacks = _stacks(frames)
    found = Slices(len(stacks), positions=[None] * len(frames))
    stack = max(stacks, key=len, default=[])
    if not 2 * len(stack) > len(frames):
        return found
    normal = _normal(frames[stack[0]].orientation)
    along = {index: _dot(frames[index].position, normal) for index in stack}
    stack.sort(key=lambda index: (along[index], index))
    places: list[list[int]] = []
    for index in stack:
        if places and along[index] - along[places[-1][0]] <= SAME_PLACE:
            places[-1].append(index)
        else:
            places.append([index])
    if any(_beside(frames, place) for place in places):
        return found  # several stacks lie side by side
    positions: list[float | None] = [None] * len(frames)
    for index, position in along.items():
        positions[index] = round(position, 3)
    found.positions, found.slices = positions, len(places)
    _copies(found, places, frames, numbers)
    _gaps(found, [along[place[0]] for place in places])
    _tilt(found, frames[places[0][0]].position, frames[places[-1][0]].position, normal)
    if _off_line(frames, places, along):
        found.uneven = True
    return found


def _stacks(frames: Sequence[Frame]) -> list[list[int]]:
    """Return the indexes of the images by orientation."""
    stacks: list[list[int]] = []
    known: dict[tuple[float, ...], int] = {}
    # The first orientation of each stack, by two of its numbers: in a radial series, each image may have its own.
    firsts: dict[tuple[int, int], list[tuple[int, tuple[float, ...]]]] = {}
    for index, frame in enumerate(frames):
        at = known.get(frame.orientation)
        if at is None:
            a, b = _cell(frame.orientation)
            near = [one for x in (a - 1, a, a + 1) for y in (b - 1, b, b + 1) for one in firsts.get((x, y), ())]
            at = min((n for n, first in near if _parallel(first, frame.orientation)), default=len(stacks))
            known[frame.orientation] = at
            if at == len(stacks):
                firsts.setdefault((a, b), []).append((at, frame.orientation))
                stacks.append([])
        stacks[at].append(index)
    return stacks


def _cell(orientation: Sequence[float]) -> tuple[int, int]:
    """Return a cell such that parallel orientations lie in the same one or in neighbours."""
    size = 2 * SAME_DIRECTION
    return math.floor(orientation[0] / size), math.floor(orientation[4] / size)


def _parallel(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(abs(a - b) <= SAME_DIRECTION for a, b in zip(one, other, strict=True))


def _copies(found: Slices, places: Sequence[Sequence[int]], frames: Sequence[Frame], numbers: Sequence[object]) -> None:
    """Find duplicates, and the number of volumes."""
    usual = Counter(map(len, places)).most_common()
    often = min(size for size, count in usual if count == usual[0][1])  # of the most common, the smallest
    copies = set()
    for place in places:
        seen: dict[str, set[object]] = {}
        for index in place:
            number = numbers[index] if numbers else None
            others = seen.get(frames[index].apart)
            # Where all places have as many images, they are volumes that nothing tells apart any more.
            if others is not None and ((number is not None and number in others) or (often == 1 and len(place) > 1)):
                copies.add(index)
            else:
                seen.setdefault(frames[index].apart, set()).add(number)
    left = [sum(index not in copies for index in place) for place in places]
    found.copies, found.duplicates = frozenset(copies), len(copies)
    found.volumes, found.incomplete = max(left), min(left) != max(left)


def _gaps(found: Slices, places: Sequence[float]) -> None:
    """Find the spacing, missing slices and uneven distances."""
    gaps = [after - before for before, after in pairwise(places)]
    if not gaps:
        return
    spacing = median(gaps)
    found.spacing = round(spacing, 4)
    if len(gaps) < 2:
        return
    even = [abs(gap - spacing) <= tolerance(spacing) for gap in gaps]
    found.missing, found.uneven = 0, False
    for at, gap in enumerate(gaps):
        if even[at]:
            continue
        times = round(gap / spacing)
        fits = times > 1 and abs(gap - times * spacing) <= max(tolerance(spacing), 0.005 * gap)
        # Larger distances one after the other are another increment, as in many CTs of the head.
        alone = all(even[beside] for beside in (at - 1, at + 1) if 0 <= beside < len(gaps))
        if fits and alone and 2 * sum(even) > len(gaps):
            found.missing += times - 1
        else:
            found.uneven = True
    if found.uneven and 2 * sum(even) <= len(gaps):
        found.missing = None  # no spacing tells


def _tilt(found: Slices, first: Sequence[float], last: Sequence[float], normal: Sequence[float]) -> None:
    line = [b - a for a, b in zip(first, last, strict=True)]
    length = math.hypot(*line)
    if length > SAME_PLACE:
        found.tilt = round(math.degrees(math.acos(min(1.0, abs(_dot(line, normal)) / length))), 2)


def _beside(frames: Sequence[Frame], place: Sequence[int]) -> bool:
    """Return whether images at one place lie side by side."""
    first = frames[place[0]].position
    return any(math.dist(first, frames[index].position) > BESIDE for index in place[1:])


def _off_line(frames: Sequence[Frame], places: Sequence[Sequence[int]], along: dict[int, float]) -> bool:
    """Return whether slices do not lie one behind the other."""
    first, last = places[0][0], places[-1][0]
    start, end, length = frames[first].position, frames[last].position, along[last] - along[first]
    if length <= SAME_PLACE:
        return False
    for place in places:
        share = (along[place[0]] - along[first]) / length
        on_line = [a + share * (b - a) for a, b in zip(start, end, strict=True)]
        if math.dist(on_line, frames[place[0]].position) > BESIDE:
            return True
    return False


def _normal(orientation: Sequence[float]) -> tuple[float, float, float]:
    a, b, c, d, e, f = orientation
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    length = math.hypot(*normal) or 1.0
    return normal[0] / length, normal[1] / length, normal[2] / length


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
