"""Where C-MOVE delivers: the standing receiver if one is up, else one inside this process."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.errors import ReceiverError
from pacsifier_ops.base.files import storage_errors
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.dimse.receiver import QUARANTINE, StorageReceiver
from pacsifier_ops.dimse.session import refuse_full_disk
from pacsifier_ops.dimse.tls import receiver_context
from pacsifier_ops.extract.quarantine import UNASKED, Quarantine
from pacsifier_ops.state.leases import Lease, Leases
from pacsifier_ops.state.tree import Tree


def announce(leases: Leases, aet: str, port: int, spool: Path, tls: bool = False) -> Lease:
    """Tell everybody under this state root that a receiver stands, as long as the lease is held.

    Args:
        tls: whether it takes TLS, and nothing else.

    Raises:
        LeaseBusy: another one stands already.
    """
    return leases.acquire(_name(aet, port), wait=0, meta={"spool": str(spool), "tls": tls})


def announced(leases: Leases, aet: str, port: int, tls: bool = False) -> Path | None:
    """The spool of the receiver that stands at an AE title and port, if one does.

    Raises:
        ReceiverError: it takes TLS and is expected not to, or the other way round.
    """
    holder = leases.holder(_name(aet, port))
    if not holder:  # or it died as it was starting
        return None
    if holder.get("tls", False) != tls:
        does, should = ("takes TLS only", "does not") if not tls else ("takes no TLS", "does")
        raise ReceiverError(
            f"the receiver {aet} at port {port} {does}, and the connection says that it {should} (receiver_tls); "
            "start it anew, or correct the connection"
        )
    return Path(holder["spool"])


def _name(aet: str, port: int) -> str:
    return f"receiver:{aet}:{port}"


@dataclass
class Receivers:
    """Finds the spool that a node's C-MOVE to us ends in, starting a receiver where none stands.

    A receiver inside a process announces itself as the standing one does, so that other processes that use the
    same AE title and port share it. When it goes, they start their own at the next attempt.

    Attributes:
        node: the PACS; its destination and receiver_port name the receiver.
        tree: where a receiver inside this process spools.
        quarantine: for what such a receiver got and nobody asked for.
    """

    node: PacsNode
    leases: Leases
    tree: Tree
    quarantine: Quarantine
    _own: StorageReceiver | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    def spool(self) -> Path:
        """The spool folder, its receiver alive. Any thread may ask.

        Raises:
            ReceiverError: no port is configured, or another program has it.
            StorageError: the spool cannot be written.
        """
        own = self._own
        if own is not None:
            return own.spool
        if not self.node.receiver_port:
            raise ReceiverError(
                f"{self.node.name}: C-MOVE needs our receiver's port; set move_port (receiver_port) to the port that "
                f"the PACS has for AE title {self.node.destination}"
            )
        return self._announced() or self._start()

    def _announced(self) -> Path | None:
        node = self.node
        return announced(self.leases, node.destination, node.receiver_port, node.receiver_tls)

    def _changing(self) -> Lease:
        """Held while a receiver starts or stops: whoever then finds none announced finds the port free."""
        return self.leases.acquire(f"{_name(self.node.destination, self.node.receiver_port)} changing")

    def _start(self) -> Path:
        node = self.node
        with self._changing(), ExitStack() as stack:
            if found := self._announced():
                return found
            spool = stack.enter_context(self.tree.workplace(self.leases)) / "spool"
            tls = receiver_context(node.name, node.tls_files) if node.receiver_tls else None
            with storage_errors("the spool"):
                own = stack.enter_context(StorageReceiver(node.destination, node.receiver_port, spool, tls=tls))
            stack.enter_context(announce(self.leases, node.destination, node.receiver_port, spool, tls is not None))
            self._own, self._stack = own, stack.pop_all()
            return spool

    def gone(self, spool: Path) -> bool:
        """Whether the receiver that filled this spool has stopped since `spool` named it."""
        own = self._own
        if own is not None:
            return own.spool != spool
        with self._changing():  # one that is just stopping counts as gone
            return self._announced() != spool

    def strays(self, spool: Path) -> Path:
        """Where objects end that came to the receiver of this spool, and that nobody collects."""
        return self.quarantine.nobodys if self._own is not None else spool / QUARANTINE

    def check(self) -> None:
        """Whether the receiver of this process could keep what arrived.

        Raises:
            StorageError: it could not, for example because the disk is full.
        """
        if self._own is not None and self._own.error is not None:
            error, self._own.error = self._own.error, None
            refuse_full_disk([error])

    def close(self) -> None:
        """Stop the receiver of this process, if there is one; what nobody collected goes into quarantine.

        What another process asked for and has not collected yet it fetches again, by a receiver of its own.
        """
        own, self._own = self._own, None
        if own is None:
            return
        with self._changing(), self._stack:
            own.stop()
            for path in own.spool.glob("[0-9]*/*"):
                if self.leases.holder(series_lease(path.parent.name)) is None:
                    self.quarantine.put(path, path.name, UNASKED)


def series_lease(series: SeriesId | str) -> str:
    """Name of the lease under which one series (or what the spool calls it) is fetched, by one process at a time."""
    return f"series:{series}"
