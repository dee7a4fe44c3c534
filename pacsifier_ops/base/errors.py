"""Typed errors of the domain.

Messages name the row, key, node or path and what to change. They never hold a value taken from a
patient's record or from a cell of a query table, so that they may be logged anywhere.
"""

from __future__ import annotations

import datetime as dt
import difflib
import re
from collections.abc import Iterable


def meant(name: str, known: Iterable[str]) -> str:
    """A remark on which key was probably meant by one that there is not; empty where none is near."""
    near = difflib.get_close_matches(name, list(known), 1, 0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def not_known(name: str, known: Iterable[str]) -> str:
    """Say that there is no key of this name, and which one was probably meant."""
    shown = name if re.fullmatch(r"\w{1,40}", name, re.ASCII) else "a key that is no plain word"
    return f"{shown} is not known{meant(name, known)}"


def numbers(found: Iterable[int], most: int = 10) -> str:
    """Numbers in words, those beyond the first `most` only counted."""
    every = list(found)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(map(str, every[:most])) + more


class PacsifierError(Exception):
    """Base of every error raised on purpose.

    Attributes:
        exit_code: what the command line ends with (2 bad input, 130 interrupted, 1 other).
        retryable: True where the same call may succeed later without anybody changing anything.
        of_series: True where the cause may lie in the one series at hand, so that others are worth trying.
    """

    exit_code = 1
    retryable = False
    of_series = False

    def shown(self) -> str:
        """The text for whoever handed the input in: with the values that a log must not hold, where there are any."""
        return str(self)


class Cancelled(PacsifierError):
    """Stopped on request (Ctrl-C, a task being killed)."""

    exit_code = 130


class InputError(PacsifierError):
    """What the user handed in cannot be used as it is."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration (config.json, connection, setting) is wrong."""


class PathRefused(InputError):
    """A path lies outside the folder it is confined to."""


class QueryTableError(InputError):
    """A query table cannot be used as a whole (unreadable, unknown column, no usable row)."""


class PatientsRefused(InputError):
    """What a source says of some patients cannot be used, or contradicts what is known of them.

    Attributes:
        what: what is wrong, in words.
        patients: positions, from 0, among the patients that were asked about; who knows them says which rows these are.
    """

    def __init__(self, what: str, patients: Iterable[int]) -> None:
        self.what, self.patients = what, tuple(patients)
        super().__init__(f"{what}: patient {numbers(place + 1 for place in self.patients)}")


class TooManySeries(InputError):
    """The cohort found is larger than allowed without a person's word."""


class TreeError(InputError):
    """The output folder is not one that this step may write into."""


class NotApproved(InputError):
    """A person's word is wanted first."""


class Unfit(PacsifierError):
    """An object cannot be de-identified with certainty; it goes to quarantine, the others go on.

    Attributes:
        reason: why, in words that hold no value of the object.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class StorageError(PacsifierError):
    """Writing failed: disk full, folder not writable."""

    retryable = True


class WorkerLost(PacsifierError):
    """A process that did a part of the work died; what it had finished is kept."""

    retryable = True


class FileUnreadable(PacsifierError):
    """A file cannot be read to its end, or changed meanwhile."""

    of_series = True


class Later(PacsifierError):
    """Nothing has failed: the work goes on later, and nothing is held meanwhile.

    Attributes:
        at: when.
    """

    def __init__(self, text: str, at: dt.datetime) -> None:
        super().__init__(f"{text} {at:%Y-%m-%d %H:%M:%S %Z}")
        self.at = at


class WindowClosed(Later):
    """The retrieval window of a node is closed; the work goes on when it opens."""

    def __init__(self, node: str, opens: dt.datetime) -> None:
        super().__init__(f"{node}: the retrieval window is closed until", opens)


class Recalling(Later):
    """An archive recalls series from slow storage, which were put aside; they are looked at again later."""

    def __init__(self, series: int, at: dt.datetime) -> None:
        super().__init__(f"{series} series that the archive recalls from slow storage: looked at again at", at)


class LeaseLost(PacsifierError):
    """A lease expired under its holder (a machine that was suspended, a shared disk that hung)."""

    retryable = True


class DeidError(PacsifierError):
    """The De-ID service does not do what it was asked for; final unless a subclass says otherwise."""


class DeidUnavailable(DeidError):
    """The De-ID service cannot be reached, hung up, was silent for too long, or says that it cannot answer for now.

    Attributes:
        retry_after: seconds that it asks to be left alone for; 0 where it says nothing.
    """

    retryable = True

    def __init__(self, text: str, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class PacsError(PacsifierError):
    """Something between us and the PACS went wrong; final unless a subclass says otherwise."""

    of_series = True


class PacsUnreachable(PacsError):
    """No TCP connection: no route, refused, name not known, time-out."""

    retryable = True
    of_series = False


class AssociationRejected(PacsError):
    """The peer rejected the association for good (PS3.8 9.3.4), for example an unknown AE title."""

    of_series = False


class AssociationBusy(PacsError):
    """The peer rejected the association for now (PS3.8 9.3.4: transient, local limit exceeded)."""

    retryable = True
    of_series = False


class AssociationAborted(PacsError):
    """The association was aborted or the connection lost in the middle."""

    retryable = True


class TlsFailed(PacsError):
    """No TLS connection came about: certificates, host name, or no TLS at all at that port."""

    of_series = False


class PacsTimeout(PacsError):
    """The peer did not answer in time."""

    retryable = True


class PacsSilent(PacsTimeout):
    """The peer took a request and fell silent. It may be at work on it all the same."""


class OutOfResources(PacsError):
    """The peer answered 0xA7xx, out of resources (PS3.4 C.4)."""

    retryable = True


class MoveDestinationUnknown(PacsError):
    """The PACS does not know, or cannot reach, the AE title that it was asked to send to."""

    of_series = False


class NothingMoved(MoveDestinationUnknown):
    """The PACS says that it sent nothing, with a status that it has for all failures.

    It may be about these objects, or about a destination that is down for now; to ask again at once helps neither.

    Attributes:
        status: that status.
    """

    retryable = True
    of_series = True

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class Unsupported(PacsError):
    """The peer does not offer the service, level or SOP class asked for."""


class ResultLimit(PacsError):
    """The archive cuts its answers off and the query cannot be split any further."""


class AnswerUnreadable(PacsError):
    """A match of a C-FIND cannot be decoded, so nobody knows what it is about."""


class Undecidable(PacsError):
    """The archive neither matches nor returns a key that a row asks for."""


class ReceiverError(PacsError):
    """Our own storage receiver cannot do its work (port taken, not reachable)."""

    of_series = False


class ReceiverGone(ReceiverError):
    """The receiver of another process, which we shared, has stopped; the next attempt starts our own."""

    retryable = True
