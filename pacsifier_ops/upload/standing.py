"""Series of which nothing is to be sent: neither the files have changed, nor what the node has confirmed of them.

They get their results in the step prepare, and no task looks at them. Where that is so for all of them, and nothing
else has changed either, no file is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from pacsifier_ops.base.config import Node, PacsNode
from pacsifier_ops.base.identity import SeriesId, digest_of
from pacsifier_ops.runs.accounts import SeriesAccount
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.job import prepared
from pacsifier_ops.runs.standing import Found, all_stood, keep_plan, keep_standing, standing_items, standing_plan
from pacsifier_ops.state.approved import LISTED, approved_seen
from pacsifier_ops.state.deliveries import deliveries_seen
from pacsifier_ops.state.standing import UNKNOWN, stamp_of, stamp_of_tree
from pacsifier_ops.state.tree import marker_of
from pacsifier_ops.upload.run import Outgoing, UploadRequest

#: Key in scan.json: the stamp of what the destination had confirmed before anything was sent, see `confirmed`.
CONFIRMED = "confirmed"


def may_stand(request: UploadRequest, node: Node) -> bool:
    """Return whether a run need not look at each file: the destination cannot be asked for what it has.

    One that can is asked in each run, and may have lost some.
    """
    return isinstance(node, PacsNode) and not (request.resend or request.release)


def standing_series(run: Run, request: UploadRequest, node: Node, series: Sequence[Outgoing]) -> set[SeriesId]:
    """Return the series that stand.

    Args:
        run: the run.
        request: its request.
        node: the destination.
        series: the series of this run.

    Raises:
        StorageError: the state root cannot be read or written.
    """
    if not may_stand(request, node):
        return set()
    place, standing = digest_of(node.key), set()
    with standing_items(run, request.folder, _name(place)) as result_of:
        for one in series:
            if result_of(str(one.series), stamp_of(one.files), _seen(place, one.series)):
                standing.add(one.series)
    return standing


def seen_before(request: UploadRequest, place: str) -> str:
    """Return the stamp of all that a run depends on beside what the destination has confirmed.

    Args:
        request: the request of the run.
        place: digest of the `key` of the destination.

    Returns:
        UNKNOWN if the folder has no list of its own of what may leave it.
    """
    with suppress(OSError):
        marker = marker_of(request.folder)
        of_list = [approved_seen(request.folder), marker.get("state"), marker.get(LISTED)]
        return stamp_of({**request.plain(), "started": ""}, place, *of_list, stamp_of_tree(request.folder))
    return UNKNOWN


def plan_before(request: UploadRequest, place: str, stamp: str) -> tuple[dict[str, Any], list[Outgoing]] | None:
    """Return what the first step of an earlier run found, and its series; None unless all that stands.

    Args:
        request: the request of the run.
        place: digest of the `key` of the destination.
        stamp: see `seen_before`.
    """
    plan = standing_plan(request.folder, _name(place), stamp)
    if plan is not None:
        series = [Outgoing(**one) for one in plan["series"]]
        if confirmed(place, series) == plan["found"].get(CONFIRMED):
            return plan["found"], series
    return None


def keep_sent(
    run: Run, request: UploadRequest, place: str, outcomes: Callable[[], Iterable[tuple[Outgoing, SeriesAccount]]]
) -> None:
    """Keep which series needed nothing; and the plan, if none did.

    Args:
        run: the run.
        request: its request.
        place: digest of the `key` of the destination.
        outcomes: returns its series, and their results.

    Raises:
        StorageError: the state root cannot be written.
    """

    def plan() -> dict[str, Any] | None:
        found = prepared(run)
        series = None if found["bad_files"] else all_stood(outcomes(), _stood)
        if series is None or confirmed(place, series) != found.get(CONFIRMED):
            return None  # something was sent; by another run as well, meanwhile
        return {"found": found, "series": [*map(vars, series)]}

    keep_standing(run, request.folder, _name(place), _needed_nothing(place, outcomes()))
    keep_plan(run, request.folder, _name(place), lambda: seen_before(request, place), plan)


def confirmed(place: str, series: Iterable[Outgoing]) -> str:
    """Return the stamp of what the destination has confirmed of these series.

    Args:
        place: digest of the `key` of the destination.
        series: the series.
    """
    return stamp_of([_seen(place, one.series) for one in series])


def _name(place: str) -> str:
    return f"sent-{place}"


def _needed_nothing(place: str, outcomes: Iterable[tuple[Outgoing, SeriesAccount]]) -> Iterator[Found]:
    for one, account in outcomes:
        if _stood(one, account):
            yield Found(str(one.series), partial(_seen, place, one.series), True)


def _stood(one: Outgoing, account: SeriesAccount) -> bool:
    """Return whether nothing was to be done for a series."""
    return account.needed_nothing and account.present == len(one.files)


def _seen(place: str, series: SeriesId) -> str:
    return stamp_of(deliveries_seen(place, series))
