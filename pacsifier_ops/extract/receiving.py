"""Receiver for C-MOVE to this machine: the standing receiver if it is running, else one inside this process."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pacsifier_ops.base.config import ArchiveNode
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
    """Announce a running receiver to all processes with this state root, for as long as the returned lease is held.

    Args:
        leases: the leases of the state root.
        aet, port: AE title and port of the receiver.
        spool: its spool folder.
        tls: whether it accepts connections with TLS only.

    Raises:
        LeaseBusy: another receiver with this AE title and port is running.
    """
    return leases.acquire(_name(aet, port), wait=0, meta={"spool": str(spool), "tls": tls})


def announced(leases: Leases, aet: str, port: int, tls: bool = False) -> Path | None:
    """Return the spool folder of the receiver that is running with an AE title and port; None if none is.

    Raises:
        ReceiverError: it uses TLS although `tls` is False, or the other way round.
    """
    holder = leases.holder(_name(aet, port))
    if not holder:  # None: no lease; empty: the process ended before it wrote its data into the lease
        return None
    if holder.get("tls", False) != tls:
        does, should = ("uses TLS", "does not") if not tls else ("does not use TLS", "does")
        raise ReceiverError(
            f"the receiver {aet} at port {port} {does}, and the connection says that it {should} (receiver_tls); "
            "restart it with the right setting, or correct the connection"
        )
    return Path(holder["spool"])


def _name(aet: str, port: int) -> str:
    return f"receiver:{aet}:{port}"


@dataclass
class Receivers:
    """Finds the receiver for a node's C-MOVE to us, and starts one if none is running.

    A receiver inside a process is announced like the standing one, so other processes with the same AE title and port
    share it. After it has stopped, they start their own at the next attempt.

    Attributes:
        node: the PACS; its destination and receiver_port are the AE title and port of the receiver.
        leases: the leases of the state root.
        tree: output tree; contains the spool of a receiver inside this process.
        quarantine: for objects that such a receiver got without a request.
    """

    node: ArchiveNode
    leases: Leases
    tree: Tree
    quarantine: Quarantine
    _own: StorageReceiver | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    def spool(self) -> Path:
        """Return the spool folder of a running receiver. May be called in any thread.

        Raises:
            ReceiverError: no port is configured, or another program uses it.
            StorageError: the spool cannot be written.
        """
        own = self._own
        if own is not None:
            return own.spool
        if not self.node.receiver_port:
            raise ReceiverError(
                f"{self.node.name}: C-MOVE needs the port of our receiver; set move_port (receiver_port) to the port "
                f"that the PACS has for AE title {self.node.destination}"
            )
        return self._announced() or self._start()

    def _announced(self) -> Path | None:
        node = self.node
        return announced(self.leases, node.destination, node.receiver_port, node.receiver_tls)

    def _changing(self) -> Lease:
        """Acquire the lease for starting or stopping a receiver. While held, a port without a receiver is free."""
        return self.leases.acquire(f"{_name(self.node.destination, self.node.receiver_port)} changing")

    def _start(self) -> Path:
        """Start a receiver inside this process, unless another process has started one meanwhile."""
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

    def has_stopped(self, spool: Path) -> bool:
        """Return whether the receiver with this spool has stopped."""
        own = self._own
        if own is not None:
            return own.spool != spool
        with self._changing():  # a receiver that is stopping counts as stopped
            return self._announced() != spool

    def uncollected_folder(self, spool: Path) -> Path:
        """Return the folder for objects in this spool that no process collects."""
        return self.quarantine.without_series if self._own is not None else spool / QUARANTINE

    def check(self) -> None:
        """Check that the receiver of this process could store all objects since the last check.

        Raises:
            StorageError: it could not, for example because the disk is full.
        """
        if self._own is not None and self._own.error is not None:
            error, self._own.error = self._own.error, None
            refuse_full_disk([error])

    def close(self) -> None:
        """Stop the receiver of this process, if there is one; objects that no process waits for go into quarantine.

        Objects that another process waits for are removed; it fetches them again with a receiver of its own.
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
    """Return the name of the lease for fetching a series: only one process may fetch it at a time.

    Args:
        series: the series, or the name of its folder in the spool.
    """
    return f"series:{series}"
