"""Items of a job that there is nothing to do for: they get their results in the first step, and no task looks at them.

An item stands if an earlier run found nothing to do for it, and nothing has changed since that this depends on. The
first step puts all of that into a stamp (see `state.standing`). The last step does so again for the items that turned
out to need nothing, and keeps the results of those with the same stamp as at the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from pacsifier_ops.base.files import read_jsonl, storage_errors
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.standing import Standing, stamp_of

#: List of the stamps in the run's folder: key, stamp of what the run itself sets, stamp of all, whether it stands.
STAMPS = "stamps"


class StandingItems:
    """Finds the items that stand; for the first step. A context manager, which keeps the stamps for the last one.

    Args:
        run: the run.
        root: the tree that the results belong to.
        name: of the results in this tree.
    """

    def __init__(self, run: Run, root: Path, name: str) -> None:
        self._run, self._kept = run, Standing(root, name, every=False)
        self._lines: list[tuple[str, str, str, bool]] = []

    def __enter__(self) -> Self:
        """See `Standing`."""
        self._kept.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            with storage_errors("the state root"):
                self._run.write_part(STAMPS, None, self._lines)

    def of(self, key: str, given: str, seen: str) -> Any:
        """Return the kept result of an item that stands; None if somebody has to look at it.

        Args:
            key: of the item.
            given: stamp of all that this run sets, and that stays as it is until its end.
            seen: stamp of all that the result depends on beside this.
        """
        stamp = stamp_of(given, seen)
        value = self._kept.get(key, stamp)
        self._lines.append((key, given, stamp, value is not None))
        return value


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
        name: of the results, see `StandingItems`.
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
