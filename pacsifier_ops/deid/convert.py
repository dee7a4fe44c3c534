"""Converts one file: reads, judges and de-identifies the object, writes it, and searches the result for identifiers."""

from __future__ import annotations

import logging
import secrets
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydicom import Dataset
from pydicom.multival import MultiValue

from pacsifier_ops.base.errors import FileUnreadable, PacsifierError, StorageError, Unfit
from pacsifier_ops.base.start import allow
from pacsifier_ops.deid import leftout, reading, technique, verifier, writing
from pacsifier_ops.deid.devices import Blackout
from pacsifier_ops.deid.engine import Deidentified, Engine
from pacsifier_ops.deid.exclusion import Judge, Kind
from pacsifier_ops.deid.numbers import Calendar, shift_of
from pacsifier_ops.deid.policy import Policy
from pacsifier_ops.deid.run import DEIDENTIFIED, EXCLUDED, QUARANTINED, SourceSeries
from pacsifier_ops.deid.sr import text_of
from pacsifier_ops.deid.technique import Head
from pacsifier_ops.deid.verifier import Identifiers, Searched


@dataclass
class Converted:
    """The outcome of an object.

    Attributes:
        outcome: de-identified, excluded or quarantined.
        reason: the rule that excluded it, or why it is in quarantine, without values.
        path: the finished file, which is not flushed to disk yet; of a de-identified object only.
        new_uid: its SOP Instance UID.
        sha256: SHA-256 of the finished file, hexadecimal.
        rules: number of elements by rule id.
        uids: replacement UIDs by original UID.
        head: what the head of the file says, where that is known without reading it.
    """

    outcome: str
    reason: str = ""
    path: Path = Path()
    new_uid: str = ""
    sha256: str = ""
    rules: dict[str, int] = field(default_factory=dict)
    uids: dict[str, str] = field(default_factory=dict)
    head: Head | None = None


class Converter:
    """De-identifies files, one after the other. An object whose result is not certain is quarantined.

    Args:
        how: the policy of the run.
        scratch: folder for unfinished files.
        note: called with unexpected errors, which may contain values.
        remembers: remember what is the same in many objects. The results are the same without.
    """

    def __init__(self, how: Policy, scratch: Path, note: Callable[[str], None], *, remembers: bool = True) -> None:
        self._how, self._scratch, self._note = how, scratch, note
        self._of, self._others = "", Identifiers()
        self._joined = (Identifiers(), Identifiers()), Identifiers()
        self._engine = Engine(how.rules, how.secret, remembers=remembers)
        self._judge = Judge(how.delete_identifiable, how.catalogue, how.rules.options, remembers=remembers)
        self._searched = Searched() if remembers else None
        logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings contain values

    def convert(self, path: Path, source: SourceSeries, uid: str) -> Converted:
        """De-identify the object of a file.

        Args:
            path: the file.
            source: series of the object.
            uid: SOP Instance UID of the object when the folder was scanned.

        Raises:
            FileUnreadable: the file cannot be read at all.
            StorageError: the output cannot be written.
        """
        target = self._scratch / f"{secrets.token_hex(8)}.dcm"
        try:
            return self._converted(path, target, source, uid)
        except Unfit as unfit:
            return self._quarantined(target, unfit.reason)
        except PacsifierError:
            raise
        except Exception as error:
            self._note("".join(traceback.format_exception(error)))
            return self._quarantined(target, f"unexpected {type(error).__name__}; problems.txt of the run has more")

    def _quarantined(self, target: Path, reason: str) -> Converted:
        target.unlink(missing_ok=True)
        return Converted(QUARANTINED, reason)

    def _converted(self, path: Path, target: Path, source: SourceSeries, uid: str) -> Converted:
        try:
            dataset = reading.read(path)
        except OSError as error:
            raise FileUnreadable(f"it cannot be read: {error.strerror or type(error).__name__}") from error
        _check(dataset, source, uid)
        verdict = self._judge.verdict(dataset)
        if verdict.kind is not Kind.PASS:
            return Converted(EXCLUDED if verdict.kind is Kind.EXCLUDE else QUARANTINED, verdict.rule)
        identifiers = self._identifiers(dataset, source)
        calendar = self._calendar(identifiers, source)
        if not calendar:
            identifiers = replace(identifiers, days=frozenset())
        outcome, sha256 = self._written(dataset, source, target, calendar, verdict.blackout)
        found = verifier.search(target, identifiers, self._searched)
        if found and (without := leftout.of(found)):
            outcome, sha256 = self._written(dataset, source, target, calendar, verdict.blackout, without)
            found = verifier.search(target, identifiers, self._searched)
        if found:
            raise Unfit(f"the result still tells who it is: {'; '.join(found[:5])}")
        counts = {**outcome.counts, **dataset.mended}
        head = technique.of(outcome.elements, outcome.syntax) if verdict.blackout is None else None
        return Converted(DEIDENTIFIED, "", target, outcome.uid, sha256, counts, outcome.uids, head)

    def _calendar(self, identifiers: Identifiers, source: SourceSeries) -> Calendar:
        """Return the dates that must not stay in numbers; none where dates stay."""
        shift = shift_of(self._how.rules, source.person, self._how.secret, source.study_uid)
        births, taken = identifiers.births, frozenset(identifiers.terms.numbers)
        return Calendar.of(identifiers.days - births, shift, births, taken, source.counted)

    def _written(
        self,
        dataset: reading.Parsed,
        source: SourceSeries,
        target: Path,
        calendar: Calendar,
        blackout: Blackout | None,
        without: frozenset[int] = frozenset(),
    ) -> tuple[Deidentified, str]:
        """De-identify an object and write it; return it, and the SHA-256 of the file."""
        outcome = self._engine.deidentify(
            dataset, source.person, calendar, without, source.known.get("PatientName", ())
        )
        if blackout is not None:
            allow("numpy")  # few runs need it, and it takes as long to load as all else
            from pacsifier_ops.deid import pixels

            outcome.counts.update(dict.fromkeys(pixels.blackout(outcome.dataset, blackout), 1))
        with _room():
            sha256 = writing.write(outcome if blackout is None else outcome.dataset, target)
        return outcome, sha256

    def _identifiers(self, dataset: reading.Parsed, source: SourceSeries) -> Identifiers:
        """Return the identifiers of an object and of the patient's other objects."""
        own, others = Identifiers.of(dataset, source.person, self._how.rules), self._known(source)
        without = replace(own, uids=frozenset())
        if (without, others) != self._joined[0]:
            self._joined = (without, others), without | others
        return replace(self._joined[1], uids=own.uids | others.uids)

    def _known(self, source: SourceSeries) -> Identifiers:
        """Return the identifiers of the patient's other objects: they must not be in this one either."""
        if self._of != source.key:
            self._of, self._others = source.key, Identifiers()
            for keyword, values in source.known.items():
                for value in ["\\".join(values)] if keyword == "AcquisitionDate" else values:  # there may be many
                    one = Dataset()
                    setattr(one, keyword, value)
                    self._others |= Identifiers.of(one, source.person)
        return self._others


def patient_id_of(dataset: Dataset) -> str:
    """Return PatientID (0010,0020) without surrounding blanks.

    Raises:
        Unfit: it has several values.
    """
    value = dataset.get("PatientID")
    if isinstance(value, MultiValue):
        raise Unfit("it has several values in PatientID")
    return str(value or "").strip("\0 ")


def _check(dataset: reading.Parsed, source: SourceSeries, uid: str) -> None:
    """Check that the object is the one that was scanned: its pseudonym depends on that.

    Raises:
        Unfit: its PatientID or a UID differs.
    """
    vr, value = dataset.elements.get(_PATIENT_ID, ("", b""))
    plain = vr == "LO" and isinstance(value, bytes) and not value.translate(None, _PLAIN)
    patient_id = text_of(dataset.elements, _PATIENT_ID) if plain else patient_id_of(dataset)
    found = [patient_id, *(text_of(dataset.elements, tag) for tag in _UIDS)]
    if found != ["" if uid in source.nameless else source.patient_id, source.study_uid, source.series_uid, uid]:
        raise Unfit("its PatientID or its UIDs are read in two ways, or the file changed meanwhile")


#: StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID.
_UIDS = (0x0020000D, 0x0020000E, 0x00080018)
_PATIENT_ID = 0x00100020
#: Characters of a text that is the same however it is decoded.
_PLAIN = bytes({*range(0x20, 0x7F)} - {ord("\\")})


@contextmanager
def _room() -> Iterator[None]:
    """Turn errors of the disk into one that says what to do."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"out_folder: {error.strerror or type(error).__name__}; free space, then run again"
        ) from error
