"""Pseudonyms and date shifts without any service: derived from the project's secret.

A patient has the same ones in every run of a project, on every machine that has its secret. Those of two projects
cannot be linked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pacsifier_ops.base.errors import ConfigError, PatientsRefused
from pacsifier_ops.pseudonyms.linkage import Person, own_names, taken_twice
from pacsifier_ops.pseudonyms.secret import Secret
from pacsifier_ops.query.pseudonym import MOST_DAYS, check_pseudonym
from pacsifier_ops.runs.folder import never

#: Digits and capitals that are not confused with each other, and form no words.
ALPHABET = "23456789BCDFGHJKMNPQRSTVWXZ"


@dataclass(frozen=True)
class Style:
    """Form of pseudonyms.

    Attributes:
        prefix: beginning of each pseudonym; with a letter, spreadsheets do not treat it as a number.
        length: number of characters after the prefix. The probability that two of n patients get the same pseudonym is
            about n² / (2 · len(alphabet)**length): 2 in 100,000 for 100,000 patients with the defaults.
        alphabet: the possible characters, each once, without regard to case.

    Raises:
        ConfigError: names the setting with which no pseudonym is possible.
    """

    prefix: str = "P"
    length: int = 10
    alphabet: str = ALPHABET

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9A-Za-z]{2,36}", self.alphabet):
            raise ConfigError("alphabet: give 2 to 36 ASCII letters and digits")
        if len(set(self.alphabet.casefold())) != len(self.alphabet):
            raise ConfigError("alphabet: a character is there twice; folders do not tell capitals from small letters")
        if type(self.length) is not int or self.length > 64:
            raise ConfigError("length: give a whole number, at most 64")
        if self.length < 1 or len(self.alphabet) ** self.length < 10**6:
            raise ConfigError("length: there would be less than a million pseudonyms; give more characters")
        try:
            check_pseudonym(self.prefix + self.alphabet[0] * self.length)
        except ValueError as error:
            raise ConfigError(f"prefix and length: {error}") from None


def pseudonym(secret: Secret, patient_id: str, style: Style = Style()) -> str:
    """Return the pseudonym of a patient."""
    number, text = secret.number("pseudonym", patient_id), ""
    for _ in range(style.length):
        number, digit = divmod(number, len(style.alphabet))
        text += style.alphabet[digit]
    return style.prefix + text


def shift(secret: Secret, patient_id: str) -> int:
    """Return the date shift of a patient in days: from -30 to 30, uniformly distributed, never 0."""
    place = secret.number("day shift", patient_id) % (2 * MOST_DAYS)
    return place - MOST_DAYS if place < MOST_DAYS else place - MOST_DAYS + 1


@dataclass(frozen=True)
class LocalSource:
    """Provides pseudonyms and shifts without a service.

    Attributes:
        secret: secret of the project.
        style: form of the pseudonyms.
        shifting: whether dates are shifted.
    """

    secret: Secret
    style: Style
    shifting: bool = True
    batch_size: ClassVar[int] = 10_000

    def ask(self, project: str, patient_ids: Sequence[str], cancelled: Callable[[], bool] = never) -> dict[str, Person]:
        """Return the new identities of patients, by PatientID.

        Raises:
            PatientsRefused: two have the same pseudonym, or a pseudonym is a PatientID.
        """
        people = {
            patient: Person(
                pseudonym(self.secret, patient, self.style), shift(self.secret, patient) if self.shifting else 0
            )
            for patient in patient_ids
        }
        twice = taken_twice({patient: person.pseudonym for patient, person in people.items()})
        clashing = [place for place, patient in enumerate(people) if patient in twice]
        if clashing or own_names(people):
            raise PatientsRefused(
                "the pseudonym is another patient's as well; make pseudonyms longer", clashing or own_names(people)
            )
        return people
