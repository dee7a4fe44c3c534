"""Checks whether a node responds to us, and what it offers, for the person who configures it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from pydicom.dataset import Dataset
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from pacsifier_ops.archive.attempts import ArchiveSession, open_archive, slot_of
from pacsifier_ops.base.config import ArchiveNode, PacsNode, WebNode
from pacsifier_ops.base.errors import AssociationBusy, PacsError, Unsupported
from pacsifier_ops.dimse.session import Session, query
from pacsifier_ops.state.leases import shared

#: Services of a Study Root archive (PS3.4 C.6.2), by their usual names.
SERVICES = {
    "C-FIND": StudyRootQueryRetrieveInformationModelFind,
    "C-GET": StudyRootQueryRetrieveInformationModelGet,
    "C-MOVE": StudyRootQueryRetrieveInformationModelMove,
}


def query_without_matches() -> Dataset:
    """Make a query that no study matches. Some archives show only on a query whether they accept us."""
    return query("STUDY", StudyInstanceUID="2.25.1", PatientID="")


def answers(session: ArchiveSession) -> None:
    """Check that an archive is there that gives the images of another. It need not answer queries.

    Raises:
        PacsError: it does not answer, or does not accept us.
    """
    with suppress(Unsupported):  # a server of WADO-RS alone says so
        session.echo()


def check_all(node: ArchiveNode) -> str:
    """Check an archive as a run uses it, and the one that gives its images.

    Returns:
        Sentences about both.

    Raises:
        PacsError, StorageError: see `check` and `check_web`; names the archive that gives the images.
    """
    said = check(node) if isinstance(node, PacsNode) else check_web(node)
    if node.giver is None:
        return said
    with open_archive(node.giver, shared(), before_waiting=_busy(node.giver)) as session:
        answers(session)
    return f"{said} Images are fetched from {node.giver.name}, which answers."


def check(node: PacsNode) -> str:
    """Send a C-ECHO to a node and, where it offers C-FIND, a query without matches.

    Returns:
        A sentence with the node and the services that it offers us.

    Raises:
        PacsError: the text gives the reason.
        StorageError: the leases cannot be stored.
    """
    with Session(node, slot_of(node, shared(), before_waiting=_busy(node))) as session:
        session.echo()
        return _described(node, session)


def check_web(node: WebNode) -> str:
    """Query a web archive for one study.

    Returns:
        A sentence with its address.

    Raises:
        PacsError: the text gives the reason.
        StorageError: the leases cannot be stored.
    """
    with open_archive(node, shared(), before_waiting=_busy(node)) as session:
        session.echo()
    return f"{node.url} answers queries (QIDO-RS)."


def _busy(node: ArchiveNode) -> Callable[[], None]:
    """Return what is done where runs hold all associations: a person who tests a connection does not wait."""

    def refuse() -> None:
        reason = f"runs hold all {node.max_associations} associations that we may have there; try again later"
        raise AssociationBusy(f"{node.name}: {reason}")

    return refuse


def _described(node: PacsNode, session: Session) -> str:
    peer = session.peer()
    offered = [name for name, model in SERVICES.items() if model in peer.accepted]
    version = f" ({peer.implementation_version})" if peer.implementation_version else ""
    does = "answers C-ECHO" if Verification in peer.accepted else "accepts associations"
    who = f"{node.called_aet} at {node.host} port {node.port}{version} {does}"
    if "C-FIND" not in offered:
        return f"{who}. It offers no C-FIND: it may be a destination, but nothing can be found there."
    status = session.find(query_without_matches()).status
    if status != 0x0000:
        raise PacsError(f"{node.name}: {does}, but refuses to be queried (C-FIND status 0x{status:04X}); see its log")
    wanted = {"get": "C-GET", "move": "C-MOVE"}.get(node.method, "C-FIND")
    if wanted not in offered:
        raise Unsupported(f"{node.name}: does not offer {wanted}, which the retrieve method {node.method} needs")
    return f"{who} and offers {', '.join(offered)}."
