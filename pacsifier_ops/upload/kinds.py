"""Which destination a node is."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from pacsifier_ops.archive.attempts import slot_of
from pacsifier_ops.base.config import Node, PacsNode, WebNode
from pacsifier_ops.dimse.session import Session
from pacsifier_ops.state.leases import Leases
from pacsifier_ops.state.turns import Place
from pacsifier_ops.upload.cstore import StoreService
from pacsifier_ops.upload.destination import Destination
from pacsifier_ops.upload.nodes import FolderNode, FtpsNode, KheopsNode, ObjectStoreNode, SftpNode, XnatNode

#: Module in this room, and class in it, by kind of node. They are loaded when they are needed.
_KINDS: dict[type, tuple[str, str]] = {
    FolderNode: ("folder", "Folder"),
    SftpNode: ("sftp", "Sftp"),
    FtpsNode: ("ftps", "Ftps"),
    ObjectStoreNode: ("objects", "ObjectStore"),
    WebNode: ("stow", "Stow"),
    XnatNode: ("xnat", "Xnat"),
    KheopsNode: ("kheops", "Kheops"),
}


def destination_at(
    node: Node,
    leases: Leases,
    cancelled: Callable[[], bool] = lambda: False,
    before_transfer: Callable[[], None] = lambda: None,
    place: Callable[[], Place] = Place,
    root: Path = Path(),
    data_set: str = "",
) -> Destination:
    """Return the destination at a node. It connects within the limit of the node, across all processes.

    Args:
        node: the node; its kind says what it speaks.
        leases: leases that enforce the limit.
        cancelled, before_transfer, root, data_set: see `Destination`.
        place: returns the place in line, see `slot_of`.
    """
    slot = slot_of(node, leases, cancelled, place=place)
    if isinstance(node, PacsNode):
        return StoreService(Session(node, slot, cancelled=cancelled, before_transfer=before_transfer))
    module, name = _KINDS[type(node)]
    of = getattr(importlib.import_module(f"pacsifier_ops.upload.{module}"), name)
    found: Destination = of(node, slot, cancelled, before_transfer, root, data_set)
    return found
