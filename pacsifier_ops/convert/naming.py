"""Names that are given once: labels of patients and sessions, and the paths of images. A later night changes none.

A data set grows: an earlier examination of a patient may come after a later one, and a second image that would have
the name of the first. Whoever has worked with `sub-17/ses-1` must find the same there tomorrow. So a label, once given,
is kept in the protected state of the folder, and what comes later gets the next free one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from pacsifier_ops.state.tree import short_hash


def label(text: str) -> str:
    """Return a text as a label of BIDS: letters and digits only."""
    return re.sub(r"[^0-9A-Za-z]", "", text)


@dataclass
class Labels:
    """Labels of patients, and numbers of their sessions.

    Attributes:
        patients: label by identity of the patient.
        sessions: number by identity of the study, which holds that of the patient.
    """

    patients: dict[str, str] = field(default_factory=dict)
    sessions: dict[str, int] = field(default_factory=dict)

    def patient(self, identity: str, pseudonym: str) -> str:
        """Return the label of a patient, given if necessary. No two have the same, also without case."""
        if identity not in self.patients:
            taken = {one.casefold() for one in self.patients.values()}
            wish = label(pseudonym)[:64]
            name, digits = wish or short_hash(identity), 8
            while name.casefold() in taken:
                name, digits = wish + short_hash(identity, digits), digits + 8
            self.patients[identity] = name
        return self.patients[identity]

    def number(self, patient: str, studies: Iterable[str]) -> None:
        """Give the studies of a patient numbers, in this order, after those that have one.

        Args:
            patient: identity of the patient.
            studies: identities of studies, each of which begins with that of the patient.
        """
        last = max((n for study, n in self.sessions.items() if study.startswith(f"{patient}\0")), default=0)
        for study in studies:
            if study not in self.sessions:
                last += 1
                self.sessions[study] = last


@dataclass
class Wish:
    """The name that an image would like.

    Attributes:
        key: identity of the image.
        order: its place among others with the same wish.
        wish: path without ending, with `{run}` where a number tells it from others; see `Paths`.
    """

    key: str
    order: tuple[object, ...]
    wish: str


@dataclass
class Paths:
    """Paths of images without ending, by identity.

    Attributes:
        given: wish and number of each image; 0: it has the name without a number.
    """

    given: dict[str, tuple[str, int]] = field(default_factory=dict)

    def give(self, wishes: Iterable[Wish]) -> None:
        """Give each image a number among those with the same wish. One whose wish has changed is named anew.

        One alone has none. Several that come together are numbered from 1; those that come later go on from there.
        """
        every: dict[str, list[Wish]] = {}
        for one in wishes:
            if self.given.get(one.key, ("", 0))[0] != one.wish:
                self.given.pop(one.key, None)
                every.setdefault(one.wish.casefold(), []).append(one)
        taken: dict[str, int] = {}
        for wish, number in self.given.values():
            taken[wish.casefold()] = max(taken.get(wish.casefold(), 0), number or 1)
        for name, group in every.items():
            last = taken.get(name, 0)
            if not last and len(group) == 1:
                self.given[group[0].key] = (group[0].wish, 0)
                continue
            for number, one in enumerate(sorted(group, key=lambda one: one.order), last + 1):
                self.given[one.key] = (one.wish, number)

    def path(self, key: str) -> str:
        """Return the path of an image."""
        wish, number = self.given[key]
        before, _, after = wish.partition("{run}")
        if not number:
            return before + after
        return f"{before}_run-{number}{after}" if after else f"{before}_{number}"
