"""What a destination is: a place that takes objects, confirms them, and tells what is there.

A destination knows nothing of runs, lists, retries and accounts; `upload.send` has all of these. It sees to it that an
object is there whole or not at all, and that it is the object that was approved.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.config import Node
from pacsifier_ops.base.errors import Cancelled

if TYPE_CHECKING:
    from pacsifier_ops.dicom.files import DicomFile


class Outcome(Enum):
    """What became of an object that was put."""

    #: Confirmed.
    STORED = "stored"
    #: Refused for now: try again, as long as others arrive.
    BUSY = "busy"
    #: Refused, maybe because the destination is busy: try again once.
    DOUBTFUL = "doubtful"
    #: Refused.
    REFUSED = "refused"
    #: Not sent: the file is not what it should be.
    UNFIT = "unfit"


@dataclass(frozen=True)
class Answer:
    """What a destination says of an object.

    Attributes:
        outcome: what became of it.
        sha256: digest of the data set that was sent, hexadecimal, if it is confirmed.
        text: the reason, if it is not; or a warning.
        mark: see `Delivery`.
    """

    outcome: Outcome
    sha256: str = ""
    text: str = ""
    mark: str = ""


class Destination(ABC):
    """A place that takes objects. It occupies a slot of its node while it is open, and is opened when first needed.

    Args:
        node: the place.
        slot: acquires a slot of the node; returns a context manager that keeps it.
        cancelled: called regularly; True ends the work.
        before_transfer: called with the slot acquired, before objects are put. An exception prevents that.
        root: the folder that is uploaded; objects have their paths below it.
        data_set: name of what is uploaded, see `data_set_name`; empty: nothing is, it is only tried.

    Attributes:
        method: name of the way, for accounts.
        keeps_files: it keeps files byte by byte, so a file whose data set alone is what was sent has to be sent again.
    """

    method = ""
    keeps_files = False

    def __init__(
        self,
        node: Node,
        slot: Callable[[], AbstractContextManager[object]],
        cancelled: Callable[[], bool] = lambda: False,
        before_transfer: Callable[[], None] = lambda: None,
        root: Path = Path(),
        data_set: str = "",
    ) -> None:
        self._node, self._slot, self._root, self._data_set = node, slot, root, data_set
        self._cancelled, self._before_transfer = cancelled, before_transfer
        self._stack = ExitStack()
        self._open = False
        self._waited = 0.0

    @property
    def waited(self) -> float:
        """Seconds that it has waited for slots so far."""
        return self._waited

    @property
    def node(self) -> Node:
        """The place."""
        return self._node

    @property
    def is_open(self) -> bool:
        """Whether a slot is occupied."""
        return self._open

    def open(self) -> None:
        """Acquire a slot and connect, if that is not done.

        Raises:
            PacsError: the destination does not answer, or does not accept us.
        """
        if self._open:
            return
        began = time.monotonic()
        self._stack.enter_context(self._slot())
        self._waited += time.monotonic() - began
        try:
            self.connect(self._stack)
        except BaseException:
            self._stack.close()
            raise
        self._open = True

    def close(self, abort: bool = False) -> None:
        """Disconnect, and release the slot."""
        self._open = False
        self._stack.close()

    def go_on(self) -> None:
        """Raise Cancelled if the work is to end."""
        if self._cancelled():
            raise Cancelled("stopped on request")

    @abstractmethod
    def connect(self, stack: ExitStack) -> None:
        """Connect; what is to be closed goes on the stack."""

    @abstractmethod
    def check(self) -> None:
        """See that objects can be put there.

        Raises:
            PacsError: they cannot; says why.
        """

    def rounds(self, files: Sequence[DicomFile]) -> Iterator[tuple[Sequence[DicomFile], Mapping[str, str]]]:
        """Yield the objects in the portions that `put` takes, with reasons for refusals that are known beforehand.

        Raises:
            PacsError: the destination does not answer, or does not accept us.
        """
        self.open()
        self._before_transfer()
        for file in files:
            yield [file], {}

    @abstractmethod
    def put(self, files: Sequence[DicomFile], again: bool) -> Mapping[str, Answer]:
        """Put a portion of objects, and confirm each.

        Args:
            again: others of their names were put by us, and are replaced.

        Returns:
            What became of each, by SOP Instance UID.

        Raises:
            PacsError: the connection failed; what became of them is not known.
            FileUnreadable, OSError, ValueError: a file cannot be read, or is not the approved one; none was stored.
        """

    def there(self, files: Iterable[DicomFile]) -> set[str] | None:
        """Return the SOP Instance UIDs of those that the destination holds; None where it is not asked."""
        return None

    def marks(self, files: Iterable[DicomFile]) -> Mapping[str, str]:
        """Return what the list of the destination tells of the content of these, by SOP Instance UID, see `Delivery`.

        Those of which it tells nothing are left out.
        """
        return {}

    def holds(self, file: DicomFile) -> bool:
        """Return whether the destination has a file as it is here; where it has marks, it is read back."""
        return True

    def occupied(self, files: Iterable[DicomFile]) -> bool:
        """Return whether one of these, which were never put, would lie where another file lies."""
        return False

    def unnamed(self) -> set[str]:
        """Return the paths that a manifest there lists which names no data set, as those of earlier versions."""
        return set()

    def listed(self, file: DicomFile) -> Mapping[str, object] | None:
        """Return the line of the manifest for a file; None where there is no manifest."""
        return None

    def finish(self, manifest: Path) -> None:  # noqa: B027 - a PACS needs none
        """Put the manifest of a run that is complete.

        Args:
            manifest: a line of JSON for each file, see `listed`. The first line names the data set as well.

        Raises:
            PacsError: the connection failed.
        """

    def __enter__(self) -> Any:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self.close(abort=kind is not None)
