"""How much a cohort is, before any of it is fetched, and which limits of its node that exceeds.

What is there already does not count: a nightly run over a large cohort is as large as what is new. All but the series,
and the images where the archive tells their number, is a rough estimate:

| modality          | images in a series | MB an image     |
|-------------------|--------------------|-----------------|
| CT, MR, PT        | 200, 100, 250      | 0.53, 0.2, 0.1  |
| US, XA, RF, NM    | 20, 10, 10, 3      | 5, 30, 10, 1    |
| CR, DX, MG        | 2, 2, 4            | 10, 15, 40      |
| RTDOSE, SEG, SM   | 1, 1, 8            | 10, 5, 300      |
| SR, PR, KO and RT | 1                  | 0.1             |
| others            | 20                 | 1               |

Hours: on each of the node's associations half a second a series, 20 ms an image and 10 MB a second; the pauses of its
pacing; and all that divided by the part of the week that its retrieval window is open, whenever the run begins.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.window import Window

_SMALL = (1, 0.1)
#: Images in a series, and MB (10^6 bytes) of an image.
_TYPICAL: dict[str, tuple[int, float]] = {
    "CT": (200, 0.53),
    "MR": (100, 0.2),
    "PT": (250, 0.1),
    "US": (20, 5),
    "XA": (10, 30),
    "RF": (10, 10),
    "NM": (3, 1),
    "CR": (2, 10),
    "DX": (2, 15),
    "MG": (4, 40),
    "RTDOSE": (1, 10),
    "SEG": (1, 5),
    "SM": (8, 300),
    **dict.fromkeys(("SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "RTRECORD"), _SMALL),
}
_OTHERS = (20, 1.0)

#: Of one association: seconds a series, seconds an image, MB a second.
_SERIES, _IMAGE, _RATE = 0.5, 0.02, 10.0

_DAY = 24 * 3600


@dataclass(frozen=True)
class Size:
    """What is to be fetched of a cohort, or moved. GB are 10^9 bytes.

    Attributes:
        series: of which something is not there yet.
        images: that are not there yet; about so many.
        guessed: series of which the archive does not tell how many images they have.
        gigabytes, hours: estimated.
        share: percent of the archive's images; None where the node does not say how many it has.
        free: GB free where the images are to lie.
    """

    series: int
    images: int
    guessed: int
    gigabytes: float
    hours: float
    share: float | None
    free: float

    @classmethod
    def of(cls, series: Iterable[tuple[str, int | None, int]], node: PacsNode, free: float) -> Size:
        """The size of a cohort.

        Args:
            series: of each the modality, the images as far as the archive tells them, and those that are there.

        Raises:
            ConfigError: a setting of the window is wrong.
        """
        count = images = guessed = 0
        megabytes = 0.0
        for modality, told, there in series:
            typical, each = _TYPICAL.get(modality, _OTHERS)
            # Where nobody tells how many there should be, what is there is taken for all of them.
            missing = max(0, told - there) if told is not None else 0 if there else typical
            if there and not missing:
                continue
            count += 1
            images += missing
            guessed += told is None
            megabytes += missing * each
        busy = (count * _SERIES + images * _IMAGE + megabytes / _RATE) / node.max_associations
        pauses = (count - 1) // node.batch_size * node.batch_wait_time if node.batch_size and count else 0.0
        return cls(
            series=count,
            images=images,
            guessed=guessed,
            gigabytes=megabytes / 1000,
            hours=(busy + pauses) / 3600 / open_part(node.retrieval_window),
            share=100 * images / node.archive_images if node.archive_images else None,
            free=free,
        )

    def told(self) -> list[str]:
        """Sentences for who decides, in counts only."""
        told = [
            f"{self.series:,} series, about {self.images:,} images, are to be fetched; what is there already is not "
            "counted",
            f"they take about {_number(self.gigabytes)} GB of {_number(self.free)} GB free, and "
            f"{_number(self.hours)} hours",
        ]
        if self.share is not None:
            told.append(f"that is about {_number(self.share)} % of the archive")
        if self.guessed:
            told.append(f"of {self.guessed:,} series the archive does not tell how many images they have")
        return told


def exceeded(size: Size, node: PacsNode) -> list[str]:
    """The limits of a node that a cohort exceeds, in words and counts only.

    Raises:
        ConfigError: a setting is wrong.
    """
    over = []
    if size.series > node.largest_cohort:
        over.append(f"{size.series} series (about {size.images} images), more than the {node.largest_cohort}")
    limits = (
        (size.images, node.max_images, "images"),
        (size.gigabytes, node.max_gigabytes, "GB"),
        (size.hours, node.max_hours, "hours"),
        (size.share or 0.0, node.max_share, "% of the archive"),
    )
    over += [
        f"about {_number(value)} {what}, more than the {_number(most)}"
        for value, most, what in limits
        if 0 < most < value
    ]
    return [f"{sentence} that {node.name} allows" for sentence in over]


def without_room(sizes: Iterable[Size]) -> list[str]:
    """Whether the images of several archives would not fit where they are to lie, in words and counts only."""
    sizes = list(sizes)
    gigabytes, free = sum(size.gigabytes for size in sizes), min((size.free for size in sizes), default=0.0)
    if gigabytes <= free:
        return []
    return [f"about {_number(gigabytes)} GB, more than the {_number(free)} that are free for them"]


def open_part(window: Window) -> float:
    """The part of the week that a retrieval window is open, above 0."""
    if not window.spans:
        return 1.0
    pieces = [
        piece
        for begin, end in window.spans
        for piece in ((begin, min(end, _DAY)), (0, end - _DAY))
        if piece[0] < piece[1]
    ]
    until = total = 0
    for begin, end in sorted(pieces):
        total += max(0, end - max(begin, until))
        until = max(until, end)
    day = total / _DAY
    return (5 * day + 2) / 7 if window.weekends else day


def _number(value: float) -> str:
    """A number as people read it, with three digits that tell, or all of a whole one."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
