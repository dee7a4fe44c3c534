"""The workers of an extract run: retrieval to the output folder, moves to another node, and what both share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.config import ArchiveNode, PacsNode, with_overrides
from pacsifier_ops.base.errors import ConfigError, NotApproved
from pacsifier_ops.base.files import read_json
from pacsifier_ops.extract.quarantine import Quarantine
from pacsifier_ops.extract.run import Planned, Request
from pacsifier_ops.runs import approvals
from pacsifier_ops.runs.accounts import SAVE, SERIES_LISTED, SeriesAccount
from pacsifier_ops.runs.folder import Run, never
from pacsifier_ops.runs.job import Question
from pacsifier_ops.runs.series import SeriesWorker
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.tree import Tree

if TYPE_CHECKING:
    from pacsifier_ops.extract.move import Mover
    from pacsifier_ops.extract.receiving import Receivers
    from pacsifier_ops.extract.retrieve import Retriever


def node_with_overrides(node: ArchiveNode, request: Request) -> ArchiveNode:
    """Return the archive with the settings that the request overrides; those of fetching are for its source.

    Raises:
        ConfigError: a setting does not apply, or the run began with another source.
    """
    if request.source_of(node.name) not in (None, node.source.name):
        raise ConfigError(
            f"{node.name}: this run began when its images came from {request.source_of(node.name)}, and now they come "
            f"from {node.source.name} (fetch_from); run it again from the step prepare"
        )
    fetching = {"method": request.method, "max_series": request.max_series, "window": request.window}
    if node.giver is None:
        return with_overrides(node, accept_patient_id_of=request.accept_patient_id_of, **fetching)
    giver = with_overrides(node.giver, **fetching)
    return with_overrides(node, accept_patient_id_of=request.accept_patient_id_of, giver=giver)


def open_receivers(run: Run, node: ArchiveNode) -> Receivers:
    """Return what finds or starts the receiver for C-MOVE to us. The caller must close it."""
    from pacsifier_ops.extract.receiving import Receivers

    tree = Tree.open(Request.of(run).out_directory)
    return Receivers(node.source, shared(), tree, Quarantine(run.quarantine))


def refuse_unapproved(run: Run) -> None:
    """Check that a cohort that exceeds a limit was approved. The states of earlier tasks do not count.

    Raises:
        NotApproved: it was not, or the step plan has not ended.
    """
    plan = plan_of(run)
    if plan["exceeds"]:
        approvals.approved(run, approvals.COHORT, plan["digest"])


def plan_of(run: Run) -> Mapping[str, Any]:
    """Return the content of plan.json.

    Raises:
        NotApproved: the step plan has not ended.
    """
    try:
        plan: Mapping[str, Any] = read_json(run.folder / "plan.json")
    except FileNotFoundError:
        raise NotApproved("nothing was planned; run the step plan") from None
    return plan


class Fetching(SeriesWorker[Planned]):
    """A worker on units of an extract run. It writes the info dump and the pseudonym of each series."""

    item = Planned

    def __init__(self, run: Run, cancelled: Question, done: Callable[[SeriesAccount], None]) -> None:
        super().__init__(run, cancelled, done)
        self._request = Request.of(run)
        self.urgency = self._request.urgency

    def open(self, stack: ExitStack) -> None:
        """Open the output folder.

        Raises:
            NotApproved: the cohort exceeds a limit, and was not approved as it is now.
            TreeError, StorageError: the output folder cannot be written.
        """
        refuse_unapproved(self._run)
        self._tree = Tree.open(self._request.out_directory)
        self._incoming = stack.enter_context(self._tree.workplace(shared()))

    def write_beside(self, planned: Planned, transfer: Retriever | Mover) -> None:
        """Write the info dump and the pseudonym; query an AcquisitionDate that is missing in the dump."""
        from pacsifier_ops.extract.retrieve import write_dump, write_new_id

        if self._request.info:
            attributes = planned.attributes
            if not attributes.get("AcquisitionDate"):
                query = partial(transfer.finder.acquisition_date, planned.study_uid, planned.series_uid)
                attributes["AcquisitionDate"] = transfer.again(query)
            write_dump(self._tree, self._incoming, planned)
        if planned.new_id:
            write_new_id(self._tree, self._incoming, planned)


class Retrieval(Fetching):
    """A worker that retrieves units of a run to the output folder. It keeps its session from unit to unit.

    Args:
        run: the run.
        node: the archive.
        cancelled: called regularly; True ends the work. Objects that have arrived are kept.
        progress: called with the size in bytes of every object that arrives.
        done: called with the account of every series when it ends.
        receivers: shared by several workers in one process; None: the worker makes its own.
    """

    def __init__(
        self,
        run: Run,
        node: ArchiveNode,
        cancelled: Question = never,
        progress: Callable[[int], None] = lambda size: None,
        done: Callable[[SeriesAccount], None] = lambda account: None,
        receivers: Receivers | None = None,
    ) -> None:
        super().__init__(run, cancelled, done)
        self._node, self._receivers = node_with_overrides(node, self._request), receivers
        self._progress = progress

    def open(self, stack: ExitStack) -> None:
        """Open the output folder, and prepare session and receiver."""
        from pacsifier_ops.extract.retrieve import Retriever

        super().open(stack)
        run, node = self._run, self._node
        receivers = self._receivers or stack.enter_context(closing(open_receivers(run, node)))
        retriever = Retriever(
            node,
            shared(),
            self._tree,
            receivers,
            self._incoming,
            Quarantine(run.quarantine),
            self._cancelled,
            self._progress,
            self._request.refetch,
            self._request.lists_all(),
            self.place,
        )
        self.at_node = self._retriever = stack.enter_context(retriever)

    def transfer(self, series: Planned, account: SeriesAccount) -> None:
        """Retrieve a series; write only its info dump if no images are to be fetched."""
        from pacsifier_ops.dimse.session import ClassesRefused

        self.write_beside(series, self._retriever)
        if self._request.retrieve == SAVE:
            with suppress(ClassesRefused):  # concerns this series only, and no retry helps; the account has the reason
                self._retriever.retrieve(series, account)
        else:
            account.state, account.expected, account.missing = SERIES_LISTED, None, 0


class Moving(Fetching):
    """A worker that has units of a run moved to another node. It keeps its session from unit to unit.

    Args:
        run: the run.
        node: the archive.
        destination: the destination, if it can be queried.
        cancelled: called regularly; True ends the work.
        done: called with the account of every series when it ends.
    """

    def __init__(
        self,
        run: Run,
        node: ArchiveNode,
        destination: PacsNode | None = None,
        cancelled: Question = never,
        done: Callable[[SeriesAccount], None] = lambda account: None,
    ) -> None:
        super().__init__(run, cancelled, done)
        self._node, self._destination = node_with_overrides(node, self._request), destination

    def open(self, stack: ExitStack) -> None:
        """Open the output folder, and prepare the session."""
        from pacsifier_ops.extract.move import Mover

        super().open(stack)
        aet, resend = self._request.move_aet, self._request.resend
        only = Path(self._request.only) if self._request.only else None
        mover = Mover(self._node, shared(), aet, self._destination, resend, self._cancelled, only, self.place)
        self.at_node = self._mover = stack.enter_context(mover)

    def transfer(self, series: Planned, account: SeriesAccount) -> None:
        """Have a series moved."""
        self.write_beside(series, self._mover)
        self._mover.move(series, account)
