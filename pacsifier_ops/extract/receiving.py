"""Where C-MOVE delivers: the standing receiver if one is up, else one inside this process."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from pacsifier_ops.config import PacsNode
from pacsifier_ops.dimse.receiver import StorageReceiver
from pacsifier_ops.errors import ReceiverError, StorageError
from pacsifier_ops.files import private_folder
from pacsifier_ops.leases import Lease, LeaseBusy, Leases


def announce(leases: Leases, aet: str, port: int, spool: Path) -> Lease:
    """Tell everybody under this state root that a receiver stands, as long as the lease is held.

    Raises:
        LeaseBusy: another one stands already.
    """
    return leases.acquire(_name(aet, port), wait=0, meta={"spool": str(spool)})


def announced(leases: Leases, aet: str, port: int) -> Path | None:
    """The spool of the receiver that stands at an AE title and port, if one does."""
    holder = leases.holder(_name(aet, port))
    return Path(holder["spool"]) if holder else None


def _name(aet: str, port: int) -> str:
    return f"receiver:{aet}:{port}"


@dataclass
class Receivers:
    """Finds the spool that a node's C-MOVE to us ends in, starting a receiver where none stands.

    A receiver inside a process announces itself as the standing one does, so that other processes that use the
    same AE title and port share it. When it goes, they start their own at the next attempt.

    Attributes:
        node: the PACS; its destination and receiver_port name the receiver.
        folder: spool for a receiver inside this process.
        quarantine: folder for what such a receiver got and nobody asked for.
    """

    node: PacsNode
    leases: Leases
    folder: Path
    quarantine: Path
    _own: StorageReceiver | None = None
    _lease: Lease | None = None

    def spool(self) -> Path:
        """The spool folder, its receiver alive.

        Raises:
            ReceiverError: no port is configured, or another program has it.
        """
        node = self.node
        if self._own is not None:
            return self.folder
        while True:
            found = announced(self.leases, node.destination, node.receiver_port)
            if found is not None:
                return found
            if not node.receiver_port:
                raise ReceiverError(
                    f"{node.name}: C-MOVE needs our receiver's port; set move_port (receiver_port) to the port that "
                    f"the PACS has for AE title {node.destination}"
                )
            with contextlib.suppress(LeaseBusy):
                self._start()
                return self.folder

    def _start(self) -> None:
        node = self.node
        lease = announce(self.leases, node.destination, node.receiver_port, private_folder(self.folder))
        try:
            self._own = StorageReceiver(node.destination, node.receiver_port, self.folder)
            self._own.start()
        except BaseException:
            self._own = None
            lease.release()
            raise
        self._lease = lease

    def check(self) -> None:
        """Whether the receiver of this process could keep what arrived.

        Raises:
            StorageError: it could not, for example because the disk is full.
        """
        if self._own is not None and self._own.error is not None:
            error, self._own.error = self._own.error, None
            words = error.strerror if isinstance(error, OSError) else str(error)
            raise StorageError(f"an object that arrived could not be kept: {words}") from error

    def close(self) -> None:
        """Stop the receiver of this process, if there is one; what nobody collected goes into quarantine."""
        if self._own is None:
            return
        self._own.stop()
        assert self._lease is not None
        self._lease.release()
        self._own = self._lease = None
        for path in self.folder.glob("[0-9]*/*"):
            shutil.move(path, private_folder(self.quarantine) / path.name)
        shutil.rmtree(self.folder, ignore_errors=True)
