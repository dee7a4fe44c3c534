"""The outcome of an upload: its series, and the instances that the destination has not confirmed."""

from __future__ import annotations

from collections.abc import Iterator

from pacsifier_ops.runs.accounts import SeriesAccount
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.upload.run import SOP_INSTANCE, Outgoing
from pacsifier_ops.upload.steps import Sending


def series(run: Run) -> Iterator[tuple[Outgoing, SeriesAccount]]:
    """Yield the series of a run with their accounts; those that stood come last."""
    return Sending.outcomes(run)


def instances(run: Run) -> Iterator[tuple[SeriesAccount, list[str], frozenset[str]]]:
    """Yield the account of each series, the SOP Instance UIDs of its files, and those not confirmed."""
    for outgoing, account in series(run):
        yield account, [file[SOP_INSTANCE] for file in outgoing.files], frozenset(account.missing_uids)
