"""Series of which nothing is to be sent: neither the files have changed, nor what the node has confirmed of them.

They get their results in the step prepare, and no task looks at them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from pacsifier_ops.base.config import Node, PacsNode
from pacsifier_ops.base.identity import SeriesId, digest_of
from pacsifier_ops.runs.accounts import SeriesAccount
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.standing import Found, keep_standing, standing_items
from pacsifier_ops.state.deliveries import deliveries_seen
from pacsifier_ops.state.standing import stamp_of
from pacsifier_ops.upload.run import Outgoing, UploadRequest


def standing_series(run: Run, request: UploadRequest, node: Node, series: Sequence[Outgoing]) -> set[SeriesId]:
    """Return the series that stand.

    Nothing stands where the destination can be asked for what it has: it is asked in each run, and may have lost some.

    Args:
        run: the run.
        request: its request.
        node: the destination.
        series: the series of this run.

    Raises:
        StorageError: the state root cannot be read or written.
    """
    if request.resend or not isinstance(node, PacsNode):
        return set()
    place, standing = digest_of(node.key), set()
    with standing_items(run, request.folder, _name(place)) as result_of:
        for one in series:
            if result_of(str(one.series), stamp_of(one.files), _seen(place, one.series)):
                standing.add(one.series)
    return standing


def keep_sent(run: Run, request: UploadRequest, place: str, outcomes: Iterable[tuple[Outgoing, SeriesAccount]]) -> None:
    """Keep which series needed nothing.

    Args:
        run: the run.
        request: its request.
        place: digest of the `key` of the destination.
        outcomes: its series, and their results.

    Raises:
        StorageError: the state root cannot be written.
    """
    keep_standing(run, request.folder, _name(place), _needed_nothing(place, outcomes))


def _name(place: str) -> str:
    return f"sent-{place}"


def _needed_nothing(place: str, outcomes: Iterable[tuple[Outgoing, SeriesAccount]]) -> Iterator[Found]:
    for one, account in outcomes:
        if account.needed_nothing and account.present == len(one.files):
            yield Found(str(one.series), partial(_seen, place, one.series), True)


def _seen(place: str, series: SeriesId) -> str:
    return stamp_of(deliveries_seen(place, series))
