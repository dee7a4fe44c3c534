"""Series of which nothing is to be fetched: nothing of them has changed, here or, as far as it tells, in the archive.

They get their results in the step plan, and no task looks at them. The archive gives the same attributes of such a
series as in the run that found all of it here, the number of its instances among them, and the list of these instances
is not too old (see `state.listings`).

Its info dump is not written again. A run with `verify: all` looks at every series, and writes all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from pacsifier_ops.base.config import ArchiveNode
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.extract import outcome
from pacsifier_ops.extract.run import Request, new_id_path
from pacsifier_ops.runs.accounts import SAVE
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.standing import Found, keep_standing, standing_items
from pacsifier_ops.state.ledger import ledger_seen
from pacsifier_ops.state.listings import KeptListing
from pacsifier_ops.state.standing import NO_FOLDER, UNKNOWN, stamp_now, stamp_of, stamps_if_readable
from pacsifier_ops.state.tree import Tree

#: Name of the results in the output tree.
_NAME = "fetched"


class Asked(NamedTuple):
    """A series of the cohort.

    Attributes:
        series: its identity.
        folder: its folder below the output folder.
        pacs: name of the archive that it was found in.
        attributes: what that archive returned, JSON.
        new_id, accept_patient_id_of: see `Planned`.
    """

    series: SeriesId
    folder: str
    pacs: str
    attributes: str
    new_id: str
    accept_patient_id_of: str


def standing_series(
    run: Run, request: Request, tree: Tree, nodes: Sequence[ArchiveNode], cohort: Iterable[Asked]
) -> dict[SeriesId, tuple[int, int]]:
    """Return the series that stand, with the numbers of their instances that are here, and that were handed on.

    Args:
        run: the run.
        request: its request.
        tree: the output tree.
        nodes: the archives.
        cohort: the series that have a folder in the tree.

    Raises:
        StorageError: the state root cannot be read or written.
    """
    if request.retrieve != SAVE or request.lists_all():
        return {}
    archives = {node.name: (node.key, node.source.key) for node in nodes}
    stamps = stamps_if_readable(tree.root)
    found = {}
    with standing_items(run, tree.root, _NAME) as result_of:
        for series, folder, pacs, *rest in cohort:
            given = stamp_of(archives[pacs], request.info, request.refetch, folder, *map(repr, rest))
            own = stamps.get(folder, NO_FOLDER if stamps else UNKNOWN)
            if value := result_of(str(series), given, _seen(tree, series, own, folder, rest[1])):
                found[series] = value[0], value[1]
    return found


def keep_fetched(run: Run, request: Request) -> None:
    """Keep which series needed nothing.

    Raises:
        StorageError: the state root cannot be written.
    """
    tree = Tree.existing(request.out_directory)
    if tree is not None:
        keep_standing(run, tree.root, _NAME, _needed_nothing(run, tree))


def _needed_nothing(run: Run, tree: Tree) -> Iterator[Found]:
    for planned, account in outcome.series(run):
        since = KeptListing(tree.root, (), planned.series).since if account.needed_nothing else None
        if since is not None:
            seen = partial(_seen_now, tree, planned.series, planned.folder, planned.new_id)
            yield Found(str(planned.series), seen, [account.present, account.handed_on], since)


def _seen_now(tree: Tree, series: SeriesId, folder: str, new_id: str) -> str:
    return _seen(tree, series, stamp_now(tree.root / folder, tree.root), folder, new_id)


def _seen(tree: Tree, series: SeriesId, own: str, folder: str, new_id: str) -> str:
    """Return the stamp of a series: its folder, its ledger, the archive's list, and the pseudonym beside it."""
    beside = ""
    with suppress(OSError, ValueError):  # each run writes it anew
        beside = new_id_path(tree, folder).read_text(encoding="utf-8") if new_id else ""
    return stamp_of(own, ledger_seen(tree.state, series), KeptListing(tree.root, (), series).seen, [beside])
