"""What an upload tells of itself: the instances that it was to send, and what the destination has confirmed."""

from __future__ import annotations

from collections.abc import Iterator

from pacsifier_ops.runs.accounts import SeriesAccount
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.upload.run import SOP_INSTANCE, Outgoing
from pacsifier_ops.upload.steps import Sending


def series(run: Run) -> Iterator[tuple[Outgoing, SeriesAccount]]:
    """The series of a run in order, and what became of each."""
    return Sending.outcomes(run)


def instances(run: Run) -> Iterator[tuple[SeriesAccount, list[str], frozenset[str]]]:
    """What became of each series, with the SOP Instance UIDs of its files, and those that are not confirmed."""
    for outgoing, account in series(run):
        yield account, [file[SOP_INSTANCE] for file in outgoing.files], frozenset(account.missing_uids)
