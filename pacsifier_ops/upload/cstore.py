"""The destination that speaks DICOM: C-STORE (PS3.4 B.2). It evaluates the status of each response."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

from pydicom.uid import UID

from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.dicom.files import DicomFile
from pacsifier_ops.dimse.session import KINDS_PER_ASSOCIATION, Session
from pacsifier_ops.upload.destination import Answer, Destination, Outcome

#: SOP class and transfer syntax of an object.
Kind = tuple[str, str]

#: Warnings (PS3.4 B.2.3): the destination has stored the object.
WARNINGS = {
    0xB000: "some elements were coerced",
    0xB006: "some elements were discarded",
    0xB007: "the data set does not match its SOP class",
}
_FAILURES = {
    0x0110: "processing failure",
    0x0111: "duplicate SOP instance",
    0x0117: "invalid SOP instance",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
    0x0210: "duplicate invocation",
    0x0211: "unrecognised operation",
    0x0212: "mistyped argument",
}
_FAILURE_RANGES = {0xA7: "out of resources", 0xA9: "the data set does not match its SOP class"}


def failure_text(status: int) -> str:
    """Return a failure status of C-STORE with its meaning (PS3.4 B.2.3, PS3.7 9.1.1.1.9)."""
    words = _FAILURES.get(status) or _FAILURE_RANGES.get(status >> 8)
    words = words or ("cannot understand the object" if status >> 12 == 0xC else "not a status of C-STORE")
    return f"0x{status:04X}, {words}"


def answer_of(status: int, sha256: str) -> Answer:
    """Return the answer that a status of C-STORE is.

    Args:
        sha256: digest of the data set that was sent, hexadecimal.
    """
    if status == 0:
        return Answer(Outcome.STORED, sha256)
    if status in WARNINGS:
        return Answer(Outcome.STORED, sha256, f"0x{status:04X}, {WARNINGS[status]}")
    if status >> 8 == 0xA7:
        return Answer(Outcome.BUSY, text=failure_text(status))
    # Some archives use 0xCxxx for single objects when they are busy.
    return Answer(Outcome.DOUBTFUL if status >> 12 == 0xC else Outcome.REFUSED, text=failure_text(status))


class StoreService(Destination):
    """A PACS, over one session.

    Args:
        session: the session; it has slot and association, and is closed with this.
    """

    method = "store"

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def node(self) -> PacsNode:
        """The PACS."""
        return self.session.node

    @property
    def waited(self) -> float:
        """See `Session`."""
        return self.session.waited

    @property
    def is_open(self) -> bool:
        """Whether an association is open."""
        return self.session.is_open

    def close(self, abort: bool = False) -> None:
        """Release or abort the association."""
        self.session.close(abort)

    def connect(self, stack: ExitStack) -> None:
        """The session connects by itself."""

    def check(self) -> None:
        """Send a C-ECHO."""
        self.session.echo()

    def rounds(self, files: Sequence[DicomFile]) -> Iterator[tuple[Sequence[DicomFile], Mapping[str, str]]]:
        """Negotiate each kind of objects, and yield one object after the other."""
        kinds = sorted({file.kind for file in files})
        for start in range(0, len(kinds), KINDS_PER_ASSOCIATION):
            some = kinds[start : start + KINDS_PER_ASSOCIATION]
            accepted = self.session.ready_to_send(some)
            refusals = {kind: self._refusal_reason(kind) for kind in some if kind not in accepted}
            for file in files:
                if file.kind in refusals:
                    yield [], {file.sop_instance_uid: refusals[file.kind]}
                elif file.kind in accepted:
                    yield [file], {}

    def put(self, files: Sequence[DicomFile], again: bool) -> Mapping[str, Answer]:
        """Send one object."""
        (file,) = files
        sent = self.session.send(file)
        return {file.sop_instance_uid: answer_of(sent.status, sent.sha256)}

    def _refusal_reason(self, kind: Kind) -> str:
        """Return why the destination accepts no presentation context for a kind, and which it would accept."""
        sop_class, syntax = (_name(uid) for uid in kind)
        accepted = " or ".join(_name(uid) for uid in self.session.accepts(kind[0]))
        instead = f"it accepts this SOP class in {accepted} only" if accepted else "it does not accept this SOP class"
        return f"refused by the destination: {sop_class} in {syntax}; {instead}"


def _name(uid: str) -> str:
    """Return the name of a SOP class or transfer syntax with its UID; the UID alone if the standard has no name."""
    name = UID(uid).name
    return name if name == uid else f"{name} ({uid})"
