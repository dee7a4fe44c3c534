"""Size of a cohort before it is fetched, and the limits of its node that it exceeds.

Instances that were fetched before do not count, so a nightly run is as large as what is new. The number of series is
exact, and so is the number of images if the archive gives it. The rest is a rough estimate:

| modality          | images in a series | MB an image     |
|-------------------|--------------------|-----------------|
| CT, MR, PT        | 200, 100, 250      | 0.53, 0.2, 0.1  |
| US, XA, RF, NM    | 20, 10, 10, 3      | 5, 30, 10, 1    |
| CR, DX, MG        | 2, 2, 4            | 10, 15, 40      |
| RTDOSE, SEG, SM   | 1, 1, 8            | 10, 5, 300      |
| SR, PR, KO and RT | 1                  | 0.1             |
| others            | 20                 | 1               |

The hours are the sum of the transfer and the pauses between batches, divided by the share of the week in which the
retrieval window is open. The transfer takes half a second per series, 20 ms per image and a second per 10 MB, divided
by the number of associations.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pacsifier_ops.base import words
from pacsifier_ops.base.config import ArchiveNode
from pacsifier_ops.base.window import Window

_SMALL = (1, 0.1)
#: Images in a series, and MB (10^6 bytes) of an image, by modality.
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

#: For one association: seconds per series, seconds per image, MB per second.
_SERIES, _IMAGE, _RATE = 0.5, 0.02, 10.0

_DAY = 24 * 3600


@dataclass(frozen=True)
class Size:
    """What is to be fetched of a cohort, or moved. A GB is 10^9 bytes.

    Attributes:
        series: number of series with missing images.
        images: estimated number of missing images.
        guessed: number of series for which the archive does not give the number of images.
        gigabytes, hours: estimated size and duration.
        share: percentage of the archive's images; None if the node has no archive_images.
        free: free space of the output folder in GB.
    """

    series: int
    images: int
    guessed: int
    gigabytes: float
    hours: float
    share: float | None
    free: float

    @classmethod
    def of(cls, series: Iterable[tuple[str, int | None, int]], node: ArchiveNode, free: float) -> Size:
        """Return the size of a cohort.

        Args:
            series: for each series its modality, its number of images or None if unknown, and how many of them need not
                be fetched.
            node: the archive.
            free: free space of the output folder in GB.

        Raises:
            ConfigError: the retrieval window of the node is invalid.
        """
        count = images = guessed = 0
        megabytes = 0.0
        for modality, number, present in series:
            typical, each = _TYPICAL.get(modality, _OTHERS)
            # Without a number from the archive, a series with some images counts as complete.
            expected = (present or typical) if number is None else number
            missing = max(0, expected - present)
            if present and not missing:
                continue
            count += 1
            images += missing
            guessed += number is None
            megabytes += missing * each
        busy = (count * _SERIES + images * _IMAGE + megabytes / _RATE) / node.max_associations
        pauses = (count - 1) // node.batch_size * node.batch_wait_time if node.batch_size and count else 0.0
        return cls(
            series=count,
            images=images,
            guessed=guessed,
            gigabytes=megabytes / 1000,
            hours=(busy + pauses) / 3600 / open_share(node.retrieval_window),
            share=100 * images / node.archive_images if node.archive_images else None,
            free=free,
        )

    def sentences(self) -> list[str]:
        """Return sentences for the person who decides, in counts only."""
        sentences = [
            f"{self.series:,} series, about {self.images:,} images, are to be fetched; images that were fetched before "
            "are not counted",
            f"they take about {words.size(self.gigabytes * 1e9)} of {words.size(self.free * 1e9)} free, and "
            f"{words.duration(self.hours * 3600)}",
        ]
        if self.share is not None:
            sentences.append(f"that is about {_number(self.share)} % of the archive")
        if self.guessed:
            sentences.append(f"the archive does not give the number of images of {self.guessed:,} series")
        return sentences


def exceeded_limits(size: Size, node: ArchiveNode) -> list[str]:
    """Return a sentence, in counts only, for each limit of the node that a cohort exceeds.

    Raises:
        ConfigError: a setting of the node is invalid.
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


def exceeded_space(sizes: Iterable[Size]) -> list[str]:
    """Return a sentence, in counts only, if the images of all archives exceed the free space; else nothing."""
    sizes = list(sizes)
    gigabytes, free = sum(size.gigabytes for size in sizes), min((size.free for size in sizes), default=0.0)
    if gigabytes <= free:
        return []
    return [f"about {_number(gigabytes)} GB, more than the {_number(free)} that are free for them"]


def open_share(window: Window) -> float:
    """Return the share of the week in which a retrieval window is open, above 0 and at most 1."""
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
    """Return a number as text, with three significant digits; whole and large numbers in full."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
