"""Names of the folders of de-identified data: pseudonyms, shifted dates or numbers, and cleaned descriptions.

The step `prepare` assigns all names and stores them, so every worker and every run uses the same ones. Their order
depends on the objects alone. The suffix that separates equal names comes from the project's secret, so it does not
reveal the identity.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pacsifier_ops.base.files import read_json, readable
from pacsifier_ops.deid.identity import FOLDER, identifying, split_key
from pacsifier_ops.deid.run import DeidRequest, Store
from pacsifier_ops.pseudonyms.linkage import Person
from pacsifier_ops.pseudonyms.secret import Secret
from pacsifier_ops.state.tree import Names, series_folder, study_folder

if TYPE_CHECKING:
    from pacsifier_ops.deid.identifiers import Identifiers
    from pacsifier_ops.deid.rules import Action, Rules
    from pacsifier_ops.dicom.files import DicomFile

_DATE, _TIME, _DESCRIPTION, _NUMBER = (0x00080020, "DA"), (0x00080030, "TM"), (0x0008103E, "LO"), (0x00200011, "IS")


class Namer:
    """Assigns names to folders.

    Args:
        store: store of the output tree, with the names assigned so far.
        request: request of the run.
        rules: compiled profile; names follow its actions for dates and descriptions.
        secret: secret of the project.
    """

    def __init__(self, store: Store, request: DeidRequest, rules: Rules, secret: Secret) -> None:
        self.names = Names(read_json(store.names) if store.names.exists() else {})
        self._sessions = Counter(
            path.rpartition("/")[0] for path in self.names.given.values() if re.fullmatch("[^/]+/ses-[0-9]+", path)
        )
        self.root = request.in_folder
        self._keep, self._rules, self._secret = request.keep_patient_dir_names, rules, secret

    def key(self, group: tuple[str, ...]) -> str:
        """Return the opaque key of a patient, study or series."""
        return self._secret.digest("folder", "\0".join(group)).hex()[:32]

    @staticmethod
    def order(file: DicomFile) -> tuple[str, ...]:
        """Return the sort key by which a patient's series get their names."""
        number = file.series_number
        return file.study_date, file.study_time, file.study_uid, number.rjust(12), file.series_uid

    def folder(
        self, file: DicomFile, person: Person, days: frozenset[str] = frozenset(), names: Iterable[str] = ()
    ) -> str:
        """Return the folder of a series, as a path below the output folder with forward slashes.

        Args:
            file: an object of the series.
            person: pseudonym and date shift of the patient.
            days: dates (`YYYYMMDD`) of the patient's objects; a SeriesNumber that equals one of them is shifted.
            names: all known names of the patient.
        """
        patient = self._patient(file, person)
        identity = self.key((patient, file.study_uid, file.series_uid))
        if identity in self.names.given:
            return self.names.given[identity]
        session = self._session(file, person, patient, days)
        # Clean the description here even where objects keep theirs. An object with a name in it goes to quarantine, but
        # the folder remains.
        kept = self._action(file, _DESCRIPTION) in ("K", "C")
        number = self._number(file, person, days) if self._action(file, _NUMBER) in ("K", "C") else ""
        attributes = {
            "SeriesNumber": number if re.fullmatch(r"\d{1,10}", number) else "",
            "SeriesDescription": _cleaned(file.description, {file.patient_name, *names}) if kept else "",
        }
        # An object with an identifier in these texts goes to quarantine. The rest of its series needs a neutral name.
        attributes = {name: "" if self._identifies(file, person, text) else text for name, text in attributes.items()}
        return self.names.give(identity, session, series_folder(attributes))

    def _number(self, file: DicomFile, person: Person, days: frozenset[str]) -> str:
        """Return the SeriesNumber as the results have it."""
        from pacsifier_ops.deid import numbers

        known = self._identifiers(file, person)
        shift = numbers.shift_of(self._rules, person, self._secret, file.study_uid)
        births, taken = frozenset([file.birth_date]), frozenset(known.terms.numbers)
        try:
            return numbers.Calendar.of(days, shift, births, taken).moved(file.series_number) or file.series_number
        except numbers.BirthDateFound:
            return ""

    def _identifies(self, file: DicomFile, person: Person, text: str) -> bool:
        """Return whether a text contains an identifier of the patient, or a date that must be removed."""
        from pacsifier_ops.deid import verifier

        known = self._identifiers(file, person)
        dates = {day: tag for day, tag in known.terms.dates.items() if day not in known.dates}
        return bool(text) and bool(verifier.hits(verifier.content_of([text]), known.terms, known.uids, dates))

    def _identifiers(self, file: DicomFile, person: Person) -> Identifiers:
        from pydicom import Dataset

        from pacsifier_ops.deid.identifiers import Identifiers

        one = Dataset()
        one.SOPClassUID, one.Modality, one.PatientID = file.sop_class_uid, file.modality, identifying(file.patient_id)
        one.PatientName, one.PatientBirthDate = file.patient_name, file.birth_date
        if split_key(file.patient_id)[0] == FOLDER:
            one.OtherPatientNames = identifying(file.patient_id)  # a folder may be named after the patient
        one.AccessionNumber, one.StudyDate = file.accession, file.study_date
        found = Identifiers.of(one, person, self._rules)
        if self._action(file, _DATE) not in ("K", "C"):  # removed dates must not appear anywhere
            found |= Identifiers.of_dates([file.study_date])
        return found

    def _patient(self, file: DicomFile, person: Person) -> str:

        parts = file.path.relative_to(self.root).parts
        if self._keep and len(parts) > 1:
            return self.names.give(self.key(("kept", parts[0])), "", readable(Path(parts[0])))
        return self.names.give(self.key((file.patient_id,)), "", f"sub-{person.pseudonym}")

    def _session(self, file: DicomFile, person: Person, patient: str, days: frozenset[str]) -> str:
        """Return `ses-<date><time>` as the results have them; studies are numbered in order where dates are removed."""
        identity = self.key((patient, file.study_uid))
        if identity in self.names.given:
            return self.names.given[identity]
        action = self._action(file, _DATE)
        if action not in ("K", "C"):
            self._sessions[patient] += 1
            return self.names.give(identity, patient, f"ses-{self._sessions[patient]:02d}")
        date = _moved(file.study_date, person.shift if action == "C" else 0, days)
        time = file.study_time if self._action(file, _TIME) in ("K", "C") else ""
        name = study_folder({"StudyDate": date, "StudyTime": time if re.fullmatch(r"[\d.]{2,14}", time) else ""})
        return self.names.give(identity, patient, name) if name else patient

    def _action(self, file: DicomFile, attribute: tuple[int, str]) -> Action:
        return self._rules.of(file.sop_class_uid, file.modality).find(*attribute).action


def _moved(date: str, shift: int, days: frozenset[str]) -> str:
    """Return a date as the results have it; empty where it is invalid or a device's default date."""
    from pacsifier_ops.deid.numbers import Calendar
    from pacsifier_ops.deid.values import shifted_date

    if Calendar.of(days, shift, frozenset(), frozenset()).is_placeholder(date):
        return ""
    return shifted_date(date, shift) or ""


def _cleaned(text: str, names: Iterable[str]) -> str:
    from pacsifier_ops.deid import vocabulary

    return vocabulary.clean(text, vocabulary.names_of(names))
