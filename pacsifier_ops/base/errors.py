"""Typed errors of the domain.

Messages name the row, key, node or path and what to change. They contain no value of a patient's record or of a cell of
a query table, so they may be logged anywhere.
"""

from __future__ import annotations

import datetime as dt
import difflib
import re
from collections.abc import Iterable
from typing import Any


def meant(name: str, known: Iterable[str]) -> str:
    """Return a hint at the known key most similar to an unknown one; empty where none is similar."""
    near = difflib.get_close_matches(name, list(known), 1, 0.51)
    return f" (did you mean {near[0]}?)" if near else ""


def not_known(name: str, known: Iterable[str]) -> str:
    """Return a text that a key is unknown, with a hint at the most similar one.

    A key with digits is not repeated: in another file than the one that was meant it may be somebody's id.
    """
    shown = name if re.fullmatch(r"[A-Za-z_]{1,40}", name) else "a key that is no plain word"
    return f"{shown} is not known{meant(name, known)}"


def numbers(found: Iterable[int], most: int = 10) -> str:
    """Return numbers as text; those after the first `most` are only counted."""
    every = list(found)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(map(str, every[:most])) + more


class PacsifierError(Exception):
    """Base class of all errors that this package raises on purpose.

    Attributes:
        exit_code: exit code of the command line (2 bad input, 130 interrupted, 1 other).
        retryable: True where the same call may succeed later without a change by a person.
        of_series: True where the cause may concern the current series only, so that others are worth trying.
    """

    exit_code = 1
    retryable = False
    of_series = False

    def shown(self) -> str:
        """Return the text for the author of the input, with values that a log must not contain, where there are any."""
        return str(self)


class Cancelled(PacsifierError):
    """Stopped on request (Ctrl-C, a killed task)."""

    exit_code = 130


class InputError(PacsifierError):
    """The user's input cannot be used as it is."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration (config.json, connection, setting) is wrong."""


class PathRefused(InputError):
    """A path leads outside the folder to which it is confined."""


class QueryTableError(InputError):
    """A query table cannot be used as a whole (unreadable, unknown column, no usable row)."""


class PatientsRefused(InputError):
    """Values of a source for some patients cannot be used, or contradict known values.

    Attributes:
        what: description of the problem.
        patients: indices, from 0, among the patients of the request; the caller knows their rows.
    """

    def __init__(self, what: str, patients: Iterable[int]) -> None:
        self.what, self.patients = what, tuple(patients)
        super().__init__(f"{what}: patient {numbers(place + 1 for place in self.patients)}")


class TooManySeries(InputError):
    """The cohort is larger than allowed without an approval."""


class TreeError(InputError):
    """This step may not write into the output folder."""


class NotApproved(InputError):
    """A person has to approve first."""


class NotAllowed(InputError):
    """A person, or a run on somebody's behalf, may not do this.

    Attributes:
        facts: what the audit file tells of it beside the text, by the keys of `audit.FACTS`.
    """

    def __init__(self, text: str, **facts: Any) -> None:
        super().__init__(text)
        self.facts = facts


class Unfit(PacsifierError):
    """An object cannot be de-identified with certainty. It goes to quarantine, and the run continues.

    Attributes:
        reason: why, without values of the object.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class StorageError(PacsifierError):
    """Writing failed: the disk is full, or the folder not writable."""

    retryable = True


class WorkerLost(PacsifierError):
    """A worker process died; its finished work is kept."""

    retryable = True


class FileUnreadable(PacsifierError):
    """A file cannot be read to its end, or has changed meanwhile."""

    of_series = True


class Later(PacsifierError):
    """No failure: the work continues later, and releases all resources until then.

    Attributes:
        at: time to continue.
    """

    def __init__(self, text: str, at: dt.datetime) -> None:
        super().__init__(f"{text} {at:%Y-%m-%d %H:%M:%S %Z}")
        self.at = at


class WindowClosed(Later):
    """The retrieval window of a node is closed; the work continues when it opens."""

    def __init__(self, node: str, opens: dt.datetime) -> None:
        super().__init__(f"{node}: the retrieval window is closed until", opens)


class Recalling(Later):
    """An archive recalls series from slow storage. They are tried again later."""

    def __init__(self, series: int, at: dt.datetime) -> None:
        super().__init__(f"{series} series that the archive recalls from slow storage: looked at again at", at)


class GaveWay(Later):
    """Another run is to go first at the node; the work continues when it does not need all associations."""

    def __init__(self, at: dt.datetime) -> None:
        super().__init__("gave way to a run that goes first; stands in line again at", at)


class LeaseLost(PacsifierError):
    """A lease expired under its holder (a suspended machine, a blocked shared disk)."""

    retryable = True


class DeidError(PacsifierError):
    """The De-ID service does not do what it was asked for; not retryable unless a subclass says otherwise."""


class DeidUnavailable(DeidError):
    """The De-ID service cannot be reached, disconnected, was silent for too long, or reports that it is unavailable.

    Attributes:
        retry_after: seconds until the next attempt, as it requests; 0 where it requests none.
    """

    retryable = True

    def __init__(self, text: str, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class DatabaseFailed(PacsifierError):
    """A database refused the connection or the query, or was gone; what it said quotes values."""

    retryable = True


class PacsError(PacsifierError):
    """An error in the communication with the PACS; not retryable unless a subclass says otherwise."""

    of_series = True


class PacsUnreachable(PacsError):
    """No TCP connection: no route, refused, unknown name, time-out."""

    retryable = True
    of_series = False


class AssociationRejected(PacsError):
    """The peer rejected the association permanently (PS3.8 9.3.4), for example because of an unknown AE title."""

    of_series = False


class AssociationBusy(PacsError):
    """The peer rejected the association temporarily (PS3.8 9.3.4: transient, local limit exceeded)."""

    retryable = True
    of_series = False


class AssociationAborted(PacsError):
    """The association was aborted, or the connection lost."""

    retryable = True


class TlsFailed(PacsError):
    """No TLS connection: certificates, host name, or no TLS at that port."""

    of_series = False


class PacsTimeout(PacsError):
    """The peer did not respond in time."""

    retryable = True


class PacsSilent(PacsTimeout):
    """The peer received a request and did not respond. It may still be working on it."""


class OutOfResources(PacsError):
    """The peer returned 0xA7xx, out of resources (PS3.4 C.4)."""

    retryable = True


class DestinationRefused(PacsError):
    """A destination refuses us: login, host key, certificate, permission, or a name that is not there."""

    of_series = False


class MoveDestinationUnknown(PacsError):
    """The PACS does not know, or cannot reach, the AE title of the move destination."""

    of_series = False


class NothingMoved(MoveDestinationUnknown):
    """The PACS reports that it sent nothing, with a status that it uses for all failures.

    The cause may be these objects, or a destination that is down at present. An immediate retry helps in neither case.

    Attributes:
        status: that status.
    """

    retryable = True
    of_series = True

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class Unsupported(PacsError):
    """The peer does not offer the requested service, level or SOP class."""


class ResultLimit(PacsError):
    """The archive truncates its responses, and the query cannot be split any further."""


class AnswerUnreadable(PacsError):
    """A C-FIND match cannot be decoded, so its entity is unknown."""


class Undecidable(PacsError):
    """The archive neither matches on a key of a row nor returns it."""


class ReceiverError(PacsError):
    """Our own storage receiver does not work (port in use, not reachable)."""

    of_series = False


class ReceiverGone(ReceiverError):
    """The receiver of another process, which we shared, has stopped; the next attempt starts our own."""

    retryable = True
