"""Series, or parts of them, of which nothing is to be converted: neither the objects nor the results have changed.

They get their results in the step prepare, and no task looks at them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from pacsifier_ops.deid.run import Counts, DeidRequest, SourceSeries, Store
from pacsifier_ops.runs.accounts import COMPLETE
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.standing import Found, keep_standing, standing_items
from pacsifier_ops.state.facts import identity_at
from pacsifier_ops.state.standing import UNKNOWN, stamp_of, stamp_of_folder, stamps_if_readable

#: Name of the results in the output tree.
_NAME = "converted"


def standing_parts(
    run: Run, request: DeidRequest, policy: Mapping[str, Any], store: Store, sources: Sequence[SourceSeries]
) -> set[str]:
    """Return the keys (see `key_of`) of the parts that stand.

    Args:
        run: the run.
        request: its request. Nothing stands where objects are converted in place.
        policy: the rules, as the marker of the tree has them.
        store: the store of the output tree.
        sources: the parts of this run.

    Raises:
        StorageError: the state root cannot be read or written.
    """
    if request.in_place:
        return set()
    stamps = stamps_if_readable(request.out_folder)
    standing = set()
    with standing_items(run, request.out_folder, _NAME) as result_of:
        for source in sources:
            given = stamp_of(policy, request.contact_sheets, vars(source))
            own = stamps.get(source.target, UNKNOWN)
            if result_of(key_of(source), given, _seen(request, store, source, own)):
                standing.add(key_of(source))
    return standing


def keep_converted(
    run: Run, request: DeidRequest, store: Store, outcomes: Iterable[tuple[SourceSeries, Counts]]
) -> None:
    """Keep which parts needed nothing.

    Raises:
        StorageError: the state root cannot be written.
    """
    keep_standing(run, request.out_folder, _NAME, _needed_nothing(request, store, outcomes))


def key_of(source: SourceSeries) -> str:
    """Return the key of a part of a series."""
    return f"{source.key} {source.part}"


def counts_of(source: SourceSeries) -> Counts:
    """Return the result of a part that needs nothing."""
    return Counts(source.number, source.modality, COMPLETE, present=len(source.files), part=source.part)


def _needed_nothing(
    request: DeidRequest, store: Store, outcomes: Iterable[tuple[SourceSeries, Counts]]
) -> Iterator[Found]:
    for source, counts in outcomes:
        counts.seconds = 0.0
        if counts == counts_of(source):
            yield Found(key_of(source), partial(_seen_now, request, store, source), True)


def _seen_now(request: DeidRequest, store: Store, source: SourceSeries) -> str:
    own = stamp_of_folder(request.out_folder / source.target, request.out_folder)
    return _seen(request, store, source, own)


def _seen(request: DeidRequest, store: Store, source: SourceSeries, own: str) -> str:
    """Return the stamp of the results: their folder, their outcomes, and the contact sheet.

    The sheet of a series in parts is made in the last step, again unless all of its parts stand.
    """
    sheet = identity_at(store.sheet(source.number)) if request.contact_sheets and source.parts == 1 else []
    return stamp_of(own, store.seen(source.key), sheet)
