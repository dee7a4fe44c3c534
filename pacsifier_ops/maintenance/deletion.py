"""Deletes one ended run on request of a person, and says before what goes and what stays."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import InputError
from pacsifier_ops.base.files import below, storage_errors
from pacsifier_ops.base.words import plural
from pacsifier_ops.extract.requests import request_in
from pacsifier_ops.maintenance.cleanup import remove_folder, remove_run
from pacsifier_ops.runs.approvals import APPROVED, RELEASE, forget_cancellation, history
from pacsifier_ops.runs.folder import Run, kept_requests, with_stages
from pacsifier_ops.state import audit

_GOES = (
    "the run in Airflow, with the states of its tasks",
    "its folder below the state root: report, accounts, summary and pictures",
)
_STAYS = (
    "images, info dumps and logs/pacsifier_log.csv in the output folder, and what is known of them",
    "pseudonyms and day shifts of the project",
    "what was sent or released, and the records of it",
)


@dataclass(frozen=True)
class Deletion:
    """What the deletion of a run removes, and what it keeps.

    Attributes:
        run: its folder, which may be gone already.
        request: folder of its query table, if no other run is of the same one.
        quarantined: number of its objects in quarantine.
    """

    run: Run
    request: Path | None
    quarantined: int

    @property
    def goes(self) -> list[str]:
        """Return what is removed, for people."""
        table = ["its query table, which no other run uses"] if self.request else []
        objects = [f"{plural(self.quarantined, 'object')} in quarantine"] if self.quarantined else []
        return [*_GOES, *table, *objects]

    @property
    def stays(self) -> list[str]:
        """Return what is kept, for people."""
        return [*_STAYS]

    def do(self, by: str) -> None:
        """Remove the folder of the run and its query table, and tell it in the audit file. Once more does no harm.

        Args:
            by: name of the user.

        Raises:
            StorageError: they cannot be removed.
        """
        audit.record(audit.REMOVING, by=by, run=self.run.name)
        if self.request is not None:
            with storage_errors("requests of the state root"), suppress(FileNotFoundError):
                remove_folder(self.request, "requests of the state root")
        if self.run.folder.exists():
            with storage_errors("runs of the state root"), suppress(FileNotFoundError):
                remove_run(self.run, "runs of the state root")
        forget_cancellation(self.run)
        audit.record(audit.REMOVED, by=by, run=self.run.name)


def deletion_of(run: Run) -> Deletion:
    """Return what the deletion of an ended run would remove.

    Raises:
        InputError: it is not deleted: the run has released a data set, or its folder cannot be written from here.
    """
    # All decisions: a run that has released may be asked again, and rejected then.
    if any((one.subject, one.word) == (RELEASE, APPROVED) for one in history(run)):
        raise InputError("this run has released a data set, and its record says who did; it stays until a clean-up")
    if run.folder.exists() and not may_delete_here():
        raise InputError("folders of runs cannot be removed from here; pacsifier-clean on a worker removes old ones")
    quarantined = sum(
        entry.is_file() for part in with_stages(run) if part.quarantine.is_dir() for entry, _ in below(part.quarantine)
    )
    return Deletion(run, _own_request(run), quarantined)


def may_delete_here() -> bool:
    """Return whether this process may remove folders of runs: that of an API server may see them read-only."""
    return os.access(settings.state_root() / "runs", os.W_OK)


def _own_request(run: Run) -> Path | None:
    """Return the folder of the request of a run, unless another run has the same one."""
    own = Counter(_requests(run.name))
    users = Counter(_requests("*")) if own else own
    folders = (settings.state_root() / "requests" / name for name, count in own.items() if users[name] == count)
    return next((folder for folder in folders if folder.is_dir()), None)


def _requests(run: str) -> Iterator[str]:
    """Yield the ids of the requests that a run and its stages name."""
    yield from filter(None, (request_in(str(kept.get("queryfile", ""))) for kept in kept_requests(run)))
