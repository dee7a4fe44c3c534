"""Items of a job that there is nothing to do for: they get their results in the first step, and no task looks at them.

An item stands if an earlier run found nothing to do for it, and nothing has changed since that this depends on. The
first step puts all of that into a stamp (see `state.standing`). The last step does so again for the items that turned
out to need nothing, and keeps the results of those with the same stamp as at the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pacsifier_ops.base.files import read_jsonl, storage_errors
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.standing import Standing, stamp_of

#: List of the stamps in the run's folder: key, stamp of what the run itself sets, stamp of all, whether it stands.
STAMPS = "stamps"


@contextmanager
def standing_items(run: Run, root: Path, name: str) -> Iterator[Callable[[str, str, str], Any]]:
    """Find the items that stand; for the first step. The stamps are kept for the last one when the block ends well.

    Args:
        run: the run.
        root: the tree that the results belong to.
        name: of the results in this tree.

    Yields:
        A function that returns the kept result of an item that stands; None if somebody has to look at it. It takes
        the key of the item, the stamp of all that this run sets, and that stays as it is until its end, and the stamp
        of all that the result depends on beside this.
    """
    lines: list[tuple[str, str, str, bool]] = []
    with Standing(root, name, every=False) as kept:

        def result_of(key: str, given: str, seen: str) -> Any:
            stamp = stamp_of(given, seen)
            value = kept.get(key, stamp)
            lines.append((key, given, stamp, value is not None))
            return value

        yield result_of
    with storage_errors("the state root"):
        run.write_part(STAMPS, None, lines)


def standing_keys(run: Run) -> set[str]:
    """Return the keys of the items that stand."""
    path = run.part(STAMPS)
    return {key for key, _, _, stands in read_jsonl(path) if stands} if path.exists() else set()


class Found(NamedTuple):
    """An item that turned out to need nothing.

    Attributes:
        key: of the item.
        seen: returns the stamp of what its result depends on beside what the run sets, as that is now.
        value: its result, a JSON value.
        since: time at which that was found out, in seconds since the epoch; None: now.
    """

    key: str
    seen: Callable[[], str]
    value: Any
    since: float | None = None


def keep_standing(run: Run, root: Path, name: str, found: Iterable[Found]) -> None:
    """Keep the results of items that turned out to need nothing; for the last step.

    Args:
        run: the run.
        root: the tree.
        name: of the results, see `standing_items`.
        found: these items.

    Raises:
        StorageError: the state root cannot be written.
    """
    path = run.part(STAMPS)
    lines = (
        {key: (given, stamp) for key, given, stamp, stands in read_jsonl(path) if not stands} if path.exists() else {}
    )
    if not lines:
        return
    with Standing(root, name, every=False) as kept:
        for key, seen, value, since in found:
            if key in lines:
                given, stamp = lines[key]
                if stamp_of(given, seen()) == stamp:
                    kept.put(key, stamp, value, since)
