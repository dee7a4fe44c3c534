"""The workers of an extract run: what they share, retrieval to our disk, and moves to another node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.config import PacsNode, with_overrides
from pacsifier_ops.base.errors import NotApproved
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


def node_for(node: PacsNode, request: Request) -> PacsNode:
    """The node as this run uses it."""
    return with_overrides(
        node,
        method=request.method,
        max_series=request.max_series,
        window=request.window,
        accept_patient_id_of=request.accept_patient_id_of,
    )


def receivers_for(run: Run, node: PacsNode) -> Receivers:
    """Where C-MOVE delivers in this process; close it at the end."""
    from pacsifier_ops.extract.receiving import Receivers

    tree = Tree.open(Request.of(run).out_directory)
    return Receivers(node, shared(), tree, Quarantine(run.quarantine))


def refuse_unapproved(run: Run) -> None:
    """Make sure that somebody has approved of a cohort that is larger than allowed, whatever the tasks before say.

    Raises:
        NotApproved: nobody has, or nothing was planned.
    """
    plan = plan_of(run)
    if plan["exceeds"]:
        approvals.approved(run, approvals.COHORT, plan["digest"])


def plan_of(run: Run) -> Mapping[str, Any]:
    try:
        plan: Mapping[str, Any] = read_json(run.folder / "plan.json")
    except FileNotFoundError:
        raise NotApproved("nothing was planned; run the step plan") from None
    return plan


class Fetching(SeriesWorker[Planned]):
    """A worker on units of an extract run, with the info dumps that go with every series."""

    item = Planned

    def __init__(self, run: Run, cancelled: Question, done: Callable[[SeriesAccount], None]) -> None:
        super().__init__(run, cancelled, done)
        self._request = Request.of(run)

    def open(self, stack: ExitStack) -> None:
        """Make room in the output folder.

        Raises:
            NotApproved: the cohort is larger than allowed, and nobody has approved of it as it is now.
            TreeError, StorageError: it cannot be written.
        """
        refuse_unapproved(self._run)
        self._tree = Tree.open(self._request.out_directory)
        self._incoming = stack.enter_context(self._tree.workplace(shared()))

    def describe(self, planned: Planned, at: Retriever | Mover) -> None:
        """Write what goes beside the images; what the dump lacks, the archive is asked for once more."""
        from pacsifier_ops.extract.retrieve import write_dump, write_new_id

        if self._request.info:
            told = planned.attributes
            if not told.get("AcquisitionDate"):
                ask = partial(at.finder.acquisition_date, planned.study_uid, planned.series_uid)
                told["AcquisitionDate"] = at.again(ask)
            write_dump(self._tree, self._incoming, planned)
        if planned.new_id:
            write_new_id(self._tree, self._incoming, planned)


class Retrieval(Fetching):
    """A worker that retrieves units of a run, over one session that it keeps from unit to unit.

    Args:
        run, node: what is retrieved, and from where.
        cancelled: asked now and then; True ends the work, what has arrived is kept.
        progress: told the bytes of every object that arrives.
        done: told the account of every series as it ends.
        receivers: where C-MOVE delivers, for callers with several workers in one process.
    """

    def __init__(
        self,
        run: Run,
        node: PacsNode,
        cancelled: Question = never,
        progress: Callable[[int], None] = lambda size: None,
        done: Callable[[SeriesAccount], None] = lambda account: None,
        receivers: Receivers | None = None,
    ) -> None:
        super().__init__(run, cancelled, done)
        self._node, self._receivers = node_for(node, self._request), receivers
        self._progress = progress

    def open(self, stack: ExitStack) -> None:
        """Get ready to retrieve."""
        from pacsifier_ops.extract.retrieve import Retriever

        super().open(stack)
        run, node = self._run, self._node
        receivers = self._receivers or stack.enter_context(closing(receivers_for(run, node)))
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
        )
        self._retriever = stack.enter_context(retriever)

    def rest(self) -> None:
        """Give the association back."""
        self._retriever.session.close()

    def transfer(self, series: Planned, account: SeriesAccount) -> None:
        """Retrieve a series, or only describe it."""
        from pacsifier_ops.dimse.session import ClassesRefused

        self.describe(series, self._retriever)
        if self._request.retrieve == SAVE:
            with suppress(ClassesRefused):  # of this series alone, and no retry helps; its account says so
                self._retriever.retrieve(series, account)
        else:
            account.state, account.expected, account.missing = SERIES_LISTED, None, 0


class Moving(Fetching):
    """A worker that has units of a run moved to another node, over one session that it keeps from unit to unit.

    Args:
        run, node: what is moved, and from where.
        destination: the destination as a node that can be asked what it holds.
        cancelled: asked now and then; True ends the work.
        done: told the account of every series as it ends.
    """

    def __init__(
        self,
        run: Run,
        node: PacsNode,
        destination: PacsNode | None = None,
        cancelled: Question = never,
        done: Callable[[SeriesAccount], None] = lambda account: None,
    ) -> None:
        super().__init__(run, cancelled, done)
        self._node, self._destination = node_for(node, self._request), destination

    def open(self, stack: ExitStack) -> None:
        """Get ready to move."""
        from pacsifier_ops.extract.move import Mover

        super().open(stack)
        aet, resend = self._request.move_aet, self._request.resend
        only = Path(self._request.only) if self._request.only else None
        mover = Mover(self._node, shared(), aet, self._destination, resend, self._cancelled, only)
        self._mover = stack.enter_context(mover)

    def rest(self) -> None:
        """Give the association back."""
        self._mover.session.close()

    def transfer(self, series: Planned, account: SeriesAccount) -> None:
        """Have a series moved."""
        self.describe(series, self._mover)
        self._mover.move(series, account)
