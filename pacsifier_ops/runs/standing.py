"""Items of a job that there is nothing to do for: they get their results in the first step, and no task looks at them.

An item stands if an earlier run found nothing to do for it, and nothing has changed since that this depends on. The
first step puts all of that into a stamp (see `state.standing`). The last step does so again for the items that turned
out to need nothing, and keeps the results of those with the same stamp as at the beginning.

Where no item of a run needed anything, the last step keeps the whole plan in the same way: all items, with their
results. The plan stands as long as nothing has changed that the first step depends on, and that step looks at no item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pacsifier_ops.base.files import read_json, read_jsonl, storage_errors, write_json
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.standing import UNKNOWN, Standing, stamp_of

#: List of the stamps in the run's folder: key, stamp of what the run itself sets, stamp of all, whether it stands.
STAMPS = "stamps"
#: File in the run's folder: the stamp of the plan, and what the last step needs of the plan that stood.
PLAN = "standing"

#: Key of the plan among the results of the items.
_WHOLE = ""

Item = TypeVar("Item")
Result = TypeVar("Result")


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


def standing_plan(root: Path, name: str, stamp: str) -> Any:
    """Return the plan that was kept, a JSON value; None unless it stands.

    Args:
        root: the tree.
        name: of the results, see `standing_items`.
        stamp: of all that the first step depends on.
    """
    with Standing(root, name, every=False) as kept:
        return kept.get(_WHOLE, stamp)


def note_plan(run: Run, stamp: str, kept: Any = None, since: float | None = None) -> None:
    """Note the stamp of a plan in the run's folder; for the first step.

    Args:
        run: the run.
        stamp: as it was before anything was looked at.
        kept: what the last step needs of the plan of an earlier run, a JSON value; None: no plan stood.
        since: time since when that was read which this plan was made of, in seconds since the epoch.

    Raises:
        StorageError: the run's folder cannot be written.
    """
    with storage_errors("the state root"):
        write_json(run.folder / f"{PLAN}.json", [stamp, kept, since])


def noted_plan(run: Run) -> tuple[str, Any, float | None]:
    """Return what `note_plan` has noted; UNKNOWN and None if that is nothing, or damaged."""
    with suppress(FileNotFoundError, ValueError):
        stamp, kept, since = read_json(run.folder / f"{PLAN}.json")
        return stamp, kept, since
    return UNKNOWN, None, None


def all_stood(outcomes: Iterable[tuple[Item, Result]], stood: Callable[[Item, Result], bool]) -> list[Item] | None:
    """Return the items of a run if none needed anything; None at the first one that did.

    Args:
        outcomes: the items with their results.
        stood: returns whether there was nothing to do for an item.
    """
    items = []
    for item, result in outcomes:
        if not stood(item, result):
            return None
        items.append(item)
    return items


def keep_plan(run: Run, root: Path, name: str, seen: Callable[[], str], plan: Callable[[], Any]) -> None:
    """Keep the plan of a run in which no item needed anything; for the last step, after `keep_standing`.

    Args:
        run: the run.
        root: the tree.
        name: of the results, see `standing_items`.
        seen: returns the stamp of all that the first step depends on, as it is now.
        plan: returns the plan, a JSON value; None if an item needed something.

    Raises:
        StorageError: the state root cannot be written.
    """
    stamp, stood, since = noted_plan(run)
    if stood is None and stamp != UNKNOWN and (value := plan()) is not None and seen() == stamp:
        with Standing(root, name, every=False) as kept:
            # It ends to stand with the first of its items, and of what was read for it.
            times = [at for at in (since, kept.oldest()) if at is not None]
            kept.put(_WHOLE, stamp, value, min(times, default=None))
