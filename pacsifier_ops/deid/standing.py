"""Series, or parts of them, of which nothing is to be converted: neither the objects nor the results have changed.

They get their results in the step prepare, and no task looks at them. Where that is so for all of them, and nothing
else has changed either, the account of the run is the same as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops.deid.run import Counts, DeidRequest, SourceSeries, Store, store_of
from pacsifier_ops.pseudonyms.secret import project_folder
from pacsifier_ops.runs.accounts import COMPLETE
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.job import prepared
from pacsifier_ops.runs.standing import Found, all_stood, keep_plan, keep_standing, standing_items, standing_plan
from pacsifier_ops.state.facts import identity_at
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.state.standing import (
    UNKNOWN,
    stamp_now,
    stamp_of,
    stamp_of_folder,
    stamp_of_tree,
    stamps_if_readable,
)
from pacsifier_ops.state.tree import OF_RUNS

if TYPE_CHECKING:
    from pacsifier_ops.deid.books import DeidAccount

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
    run: Run,
    request: DeidRequest,
    policy: Mapping[str, Any],
    store: Store,
    account: DeidAccount,
    outcomes: Callable[[], Iterable[tuple[SourceSeries, Counts]]],
) -> None:
    """Keep which parts needed nothing; and the plan, if none did, and each object of the folder is in the data set.

    Args:
        run: the run.
        request: its request.
        policy: the rules, as the marker of the tree has them.
        store: the store of the output tree.
        account: the closed account.
        outcomes: returns the parts of the run with their results.

    Raises:
        StorageError: the state root cannot be written.
    """

    def plan() -> dict[str, Any] | None:
        if account.verdict != COMPLETE or account.set_apart:
            return None
        if any(one.folder.partition("/")[0] in OF_RUNS for one in account.series):
            return None  # a patient's folder may have kept such a name, and `seen_before` leaves it out
        sources = all_stood(outcomes(), _stood)
        if sources is None or not (sources or request.allow_empty):
            return None  # a run may go on in a folder that has become empty, and none may begin there
        return {"found": prepared(run), "parts": [*map(vars, sources)], "account": asdict(account)}

    keep_standing(run, request.out_folder, _NAME, _needed_nothing(request, store, outcomes()))
    keep_plan(run, request.out_folder, _NAME, lambda: seen_before(request, policy), plan)


def seen_before(request: DeidRequest, policy: Mapping[str, Any]) -> str:
    """Return the stamp of all that a run depends on; UNKNOWN where it works in place, or there was none before.

    Beside the objects and their results, these are the policy, and all that gives pseudonyms and names of folders.

    Args:
        request: its request.
        policy: the rules, as the marker of the tree has them.
    """
    store = None if request.in_place else store_of(request.out_folder)
    if store is None:
        return UNKNOWN
    with suppress(OSError):
        given = [Path(name) for name in (request.new_ids, request.day_shift) if name]
        files = [*given, store.names, *project_folder(request.project).iterdir()]
        return stamp_of(
            {**request.plain(), "started": ""},
            policy,
            stamp_of_tree(request.in_folder),
            stamp_of_tree(request.out_folder),
            store.digest(),
            stamp_now(store.folder / "sheets", request.out_folder),
            sorted([str(path), digest(path)] for path in files if path.is_file()),
        )
    return UNKNOWN


def plan_before(request: DeidRequest, stamp: str) -> tuple[dict[str, Any], list[SourceSeries], dict[str, Any]] | None:
    """Return what the first step of an earlier run found, its parts, and its account; None unless all that stands.

    Args:
        request: the request of the run.
        stamp: see `seen_before`.
    """
    plan = standing_plan(request.out_folder, _NAME, stamp)
    if plan is None:
        return None
    return plan["found"], [SourceSeries(**part) for part in plan["parts"]], plan["account"]


def key_of(source: SourceSeries) -> str:
    """Return the key of a part of a series."""
    return f"{source.key} {source.part}"


def counts_of(source: SourceSeries) -> Counts:
    """Return the result of a part that needs nothing."""
    return Counts(source.number, source.modality, COMPLETE, present=len(source.files), part=source.part)


def _needed_nothing(
    request: DeidRequest, store: Store, outcomes: Iterable[tuple[SourceSeries, Counts]]
) -> Iterator[Found]:
    @cache  # a large series has many parts, and one folder
    def stamp_of_target(target: str) -> str:
        return stamp_of_folder(request.out_folder / target, request.out_folder)

    def seen_now(source: SourceSeries) -> str:
        return _seen(request, store, source, stamp_of_target(source.target))

    for source, counts in outcomes:
        if _stood(source, counts):
            yield Found(key_of(source), partial(seen_now, source), True)


def _stood(source: SourceSeries, counts: Counts) -> bool:
    """Return whether nothing was to be done for a part."""
    return replace(counts, seconds=0.0) == counts_of(source)


def _seen(request: DeidRequest, store: Store, source: SourceSeries, own: str) -> str:
    """Return the stamp of the results: their folder, their outcomes, and the contact sheet.

    The sheet of a series in parts is made in the last step, again unless all of its parts stand.
    """
    sheet = identity_at(store.sheet(source.number)) if request.contact_sheets and source.parts == 1 else []
    return stamp_of(own, store.seen(source.key), sheet)
