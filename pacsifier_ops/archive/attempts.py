"""Sessions within the limit on a node's associations, and retries of calls."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias, TypeVar

from pacsifier_ops.base.config import ArchiveNode, Node, PacsNode
from pacsifier_ops.base.errors import NothingMoved, PacsifierError, StorageError, WindowClosed
from pacsifier_ops.base.waiting import BACK_OFF, pause
from pacsifier_ops.dimse.session import Session
from pacsifier_ops.state.leases import Lease, LeaseBusy, Leases, Pacer
from pacsifier_ops.state.turns import Place

if TYPE_CHECKING:
    from pacsifier_ops.dicomweb.session import WebSession

#: A session with an archive. Both have the same services; what can be asked of one can be asked of the other.
ArchiveSession: TypeAlias = "Session | WebSession"
T = TypeVar("T")


def open_archive(
    node: ArchiveNode,
    leases: Leases,
    incoming: Path | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda size: None,
    wait: float | None = None,
    before_transfer: Callable[[], None] = lambda: None,
    place: Callable[[], Place] = Place,
    before_waiting: Callable[[], object] = lambda: None,
) -> ArchiveSession:
    """Open a session with an archive, whatever it speaks, within the limit on its associations, see `slot_of`.

    Args:
        node: the archive.
        leases: leases that enforce the limit.
        incoming, cancelled, progress, before_transfer: see `Session`.
        wait, place, before_waiting: see `slot_of`.
    """
    slot = slot_of(node, leases, cancelled, before_waiting, wait, place)
    if isinstance(node, PacsNode):
        return Session(node, slot, incoming, cancelled, progress, before_transfer)
    from pacsifier_ops.dicomweb.session import WebSession

    return WebSession(node, slot, incoming, cancelled, progress, before_transfer)


def slot_of(
    node: Node,
    leases: Leases,
    cancelled: Callable[[], bool] = lambda: False,
    before_waiting: Callable[[], object] = lambda: None,
    wait: float | None = None,
    place: Callable[[], Place] = Place,
) -> Callable[[], Lease]:
    """Return a function that acquires a slot of a node: one of its associations, across all processes.

    Where none is free, those who ask stand in line, see `turns`.

    Args:
        node: the node.
        leases: leases that enforce the limit.
        cancelled: called while it waits; True ends that.
        before_waiting: called where no slot is free at once. The caller must then release whatever others wait for.
        wait: maximum number of seconds to wait for a slot; None: no limit.
        place: returns the place in line; by itself that of a run that has done nothing yet.
    """

    def slot() -> Lease:
        name, limit, where = node.slots, node.max_associations, place()
        try:
            return leases.acquire(name, limit=limit, wait=0, place=where)
        except LeaseBusy:
            before_waiting()
        return leases.acquire(name, limit=limit, wait=wait, cancelled=cancelled, place=where)

    return slot


class Closing(Protocol):
    """What can be tried again at a node: a session, or work with one or two of them."""

    @property
    def node(self) -> Node: ...
    def close(self, abort: bool = False) -> None: ...


class Connected(Closing, Protocol):
    """What work at a node needs of its session, whatever the node speaks, see `Session`."""

    @property
    def waited(self) -> float: ...
    @property
    def is_open(self) -> bool: ...


def give_way(session: Connected, leases: Leases, place: Place) -> None:
    """Close a session if somebody with a better place waits for its association; its next call stands in line.

    Raises:
        StorageError: the folder of the leases cannot be read.
    """
    if session.is_open and leases.overtaken(session.node.slots, place):
        session.close()


def retrying(action: Callable[[], T], session: Closing, cancelled: Callable[[], bool]) -> T:
    """Call an action with a session; repeat it after each wait while the error is one that may be temporary."""
    for factor in BACK_OFF:
        try:
            return action()
        except PacsifierError as error:
            if not error.retryable or isinstance(error, (StorageError, NothingMoved)):
                raise
            session.close(abort=True)
        pause(factor * session.node.retry_wait, cancelled)
    return action()


class AtPlace:
    """Base class of work at one node, with one session, whatever the node speaks. A context manager.

    Attributes:
        node, leases: the node, and the leases that enforce its limits.
        cancelled: called regularly; True ends the work.
        place: returns the place in line for a slot.
        session: set by the subclass, before `use_pace`.
        sessions: all sessions of the work.
    """

    node: Node
    leases: Leases
    cancelled: Callable[[], bool]
    place: Callable[[], Place] = Place
    session: Connected

    @property
    def sessions(self) -> Sequence[Connected]:
        return (self.session,)

    @property
    def waited(self) -> float:
        """Seconds that the work has waited for slots so far."""
        return sum(session.waited for session in self.sessions)

    def close(self, abort: bool = False) -> None:
        """Close all sessions, and so release their slots."""
        for session in self.sessions:
            session.close(abort=abort)

    def use_pace(self) -> None:
        """Begin with the pacing of the node."""
        self._under_way = False
        self._pacer = Pacer(self.leases, self.node.slots, self.node.batch_size, self.node.batch_wait_time)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(abort=kind is not None)

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Acquire a lease. If that means waiting, close the association and release its slot before."""
        try:
            lease = self.leases.acquire(name, wait=0)
        except LeaseBusy:
            self.close()
            lease = self.leases.acquire(name, cancelled=self.cancelled)
        with lease:
            yield

    def give_way(self) -> None:
        """Let somebody with a better place have the association, see `give_way`; called between two series."""
        for session in self.sessions:
            give_way(session, self.leases, self.place())

    def wait_for_turn(self) -> None:
        """Wait for the pause of the node between two batches, without an association meanwhile.

        The transfer that follows begins within the node's retrieval window or not at all, however long it waits for a
        slot. A transfer that has begun is finished: the window is checked between two series only.

        Raises:
            WindowClosed: now, or at the beginning of the transfer. Association and slot are released.
        """
        self._under_way = False
        self._check_window()
        if self._pacer.on:
            self.close()
            self._pacer.wait_turn(cancelled=self.cancelled)

    def _begin(self) -> None:
        if not self._under_way:
            self._check_window()
            self._under_way = True

    def _check_window(self) -> None:
        opens = self.node.retrieval_window.opens_at(dt.datetime.now(dt.UTC))
        if opens is not None:
            self.close()
            raise WindowClosed(self.node.name, opens)

    def again(self, action: Callable[[], T]) -> T:
        """Call an action at the node, see `retrying`."""
        return retrying(action, self, self.cancelled)


class AtNode(AtPlace):
    """Work on what is found at one archive and given by it, or by another (`fetch_from`); see `AtPlace`.

    While it waits for a slot of one, it holds none of the other; and while images come, none of the archive that was
    only asked.

    Attributes:
        node: the archive that gives the images; before `use_session` the one that is asked.
        asked: the archive that is asked for what there is.
        session: session with `node`; asking: with `asked`, the same one where that is the same archive.
    """

    node: ArchiveNode
    asked: ArchiveNode
    session: ArchiveSession
    asking: ArchiveSession

    @property
    def sessions(self) -> Sequence[Connected]:
        return (self.session, self.asking) if self.is_split else (self.session,)

    @property
    def is_split(self) -> bool:
        """Whether one archive is asked, and another gives the images."""
        return self.asking is not self.session

    def use_session(self, incoming: Path | None = None, progress: Callable[[int], None] = lambda size: None) -> None:
        """Make the session, see `Session`; nothing is opened yet."""
        self.asked, self.node = self.node, self.node.source
        opened = partial(open_archive, leases=self.leases, cancelled=self.cancelled, place=lambda: self.place())
        self.session = self.asking = opened(
            self.node,
            incoming=incoming,
            progress=progress,
            before_transfer=self._begin,
            before_waiting=self._stop_asking,
        )
        if self.asked is not self.node:
            self.asking = opened(self.asked, before_waiting=self.session.close)
        self.use_pace()

    def _stop_asking(self) -> None:
        if self.is_split:
            self.asking.close()

    def _begin(self) -> None:
        super()._begin()
        self._stop_asking()
