"""Finds names in descriptions by the words beside them: titles, salutations, roles, and `by`.

The word after a title is a name, whatever its other meaning: `Dr. Foot`. So is the word before a degree, or before a
comma and a title: `Foot MD`, `Foot, Dr.` The word after a hint, such as `ref` or `by`, is a name where it can be one:
`by Long`, not `by protocol`. So is the word beside an initial: `C. Long`.

The spelling separates abbreviations of modalities and diseases from titles: `Dr` and `DR.` are titles, `DR` is a hint,
`MR` is neither.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple


def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TITLES = re.compile(
    r"""(?i:
    prof|profs|professor|professeur|professore|profesor|doctor|doktor|docteur|dottore|dottoressa|dott|doutor|drs
    |mrs|miss|mister|herrn?|frau|fräulein|madame|monsieur|mademoiselle|mme|mmes|mlle|signora?|signore|señora?|senhora?
    |sra|srta|mevrouw|mevr|meneer|dhr|fru
    |(?:ober|chef|haus|fach|stations|assistenz)?(?:arzt|ärztin|aerztin)|(?:über|ueber|zu|ein)weise(?:r|rin|nder?)
    |anforderer|untersucher|befunder|operateur|médecin|medecin|medico|médico|radiologue|radiologo|radiologe|radiologist
    |surgeon|chirurg|chirurgien|chirurgo|mtra|mtr|mta|mtar|radiographer|sonographer
    )[.:]?
    |(?:[Dd]r|Mr|Ms|Sr|Sig|Ing|Hr)[.:]?
    |(?i:dr|mr|ms|sr|sig|ing)[.]|(?:HR|Fr)[.]
    |(?i:pat|pt|patient|patiente|paziente|paciente|name|nom|nome|nombre|naam|op|ref|referrer|by|tech)[:]""",
    re.VERBOSE,
)
_HINTS = re.compile(
    r"(?i:by|ref|refd|referred|referring|per|par|von|tech|technician|operator|oa|ltd|pat|patient|physician)[.:]?"
    r"|(?i:op)[.]|[Pp]t[.:]?|DR|MS|ms|M[.]|Le|La|De|Van|Von|Der|Den|El|Al|Di|Da|Du|Del|Ten|Ter|Mc|Mac|St|Ibn|Bin"
)
#: Degrees after a name.
_DEGREES = re.compile(r"M\.?D|[Pp][Hh]D|PHD|FRCR|FRCPC?|FRCS|FACR|MBBS|MBChB")
#: Maximum number of words after a title to examine: the title's other words, and the name.
_REACH = 16
#: An initial that is no side; without a dot, letters that have other meanings for images are excluded (`C+`, `W/O`, `T
#: spine`).
_INITIAL = re.compile("[A-KM-QS-ZÀ-Þa-km-qs-zà-þ][.]|[ABEGHIJKMNQUVYabeghijkmnquvyÀ-Þà-þ](?![/+*-])")
_LETTERS = re.compile(r"(?<!\w)(?:[^\W\d_][.] ?)*[^\W\d_][.] ?[^\W\d_](?!\w)")
#: Letters with dots that are no initials.
_ABBREVIATIONS = _words_of(
    """ap pa iv ip pi im po wo ml cc mip mpr ct mr us pet spect ecg ekg tof bw ca na nb cm op hws lws bws mri mrt mra ls
    cs ts hno rmn irm tc tac ok uk st"""
)
#: Particles at the beginning of names.
PARTICLES = _words_of(
    """von van der den de del della di da dos das la le du des ten ter te zu zum zur
    bin ibn al el abu mc mac st san o d"""
)
#: Words between a title and a name: more of the title, and particles.
_BETWEEN = PARTICLES | _words_of("med ssa ra univ dent vet phil habil rer nat priv doz dipl lic by ref")
#: Diseases named after a person: `M. Crohn` is no Monsieur Crohn.
_DISEASES = _words_of(
    """addison alzheimer basedow bechterew bechterev behcet behçet boeck bowen castleman charcot crohn cushing dupuytren
    fabry forestier gaucher graves hirschsprung hodgkin horton huntington köhler krohn ledderhose little menière meniere
    moschcowitz ollier ormond osgood osler paget parkinson perthes peyronie pick recklinghausen scheuermann schlatter
    sudeck still verneuil waldenström whipple wilson wegener gluteus quadriceps biceps triceps pectoralis"""
)


class Word(NamedTuple):
    """A word of a text, with start and end offset."""

    text: str
    start: int
    end: int


def names_in(text: str, words: Sequence[Word]) -> Iterator[tuple[int, bool]]:
    """Yield the words beside a title, a hint or an initial, titles and initials included.

    Args:
        text: the text.
        words: its words, in order.

    Yields:
        Index of the word, and whether it is removed in any case. A word after a hint is removed only if it can be a
            name.
    """
    initials, abbreviations = _dotted(text, words)
    yield from ((number, True) for number in initials)
    for place, word in enumerate(words):
        if word.text == "M" and place + 1 < len(words) and words[place + 1].text.casefold() in _DISEASES:
            continue
        if len(word.text) == 1 and place not in abbreviations and _INITIAL.match(text, word.start):
            yield from ((number, False) for number in _words_of_initial(text, words, place))
        written = word.text + text[word.end : word.end + 1].strip(" _")
        written = written if written[-1:] in ".:" else word.text
        if place and _DEGREES.fullmatch(word.text) and _is_named(text, words, place):
            yield from ((number, True) for number in (place - 1, place))
        title = _TITLES.fullmatch(written) is not None
        if not title and not _HINTS.fullmatch(written):
            continue
        if written in ("ms", "Fr.", "Hr", "Hr.", "HR.") and place and words[place - 1].text[0].isdigit():
            continue  # hours and milliseconds, the size of a catheter
        names = list(_names_after(text, words, place))
        if title and _is_behind_comma(text, words, place) and (not names or _ends(text, words, place)):
            yield from ((number, True) for number in (place - 1, place))
        if not names:
            continue
        if title:
            yield from ((number, True) for number in (place, *names))
        else:
            yield names[-1], False


def _dotted(text: str, words: Sequence[Word]) -> tuple[set[int], set[int]]:
    """Return the indices of letters in a row with dots: of initials (`J.D.K.`), and of abbreviations (`a.p.`)."""
    initials, abbreviations = set[int](), set[int]()
    starts = [word.start for word in words]
    for row in _LETTERS.finditer(text):
        known = re.sub("[. ]", "", row[0]).casefold() in _ABBREVIATIONS
        into = abbreviations if known else initials
        into.update(range(bisect_left(starts, row.start()), bisect_left(starts, row.end())))
    return initials, abbreviations


def _words_of_initial(text: str, words: Sequence[Word], place: int) -> Iterator[int]:
    """Yield the indices of words to which an initial may belong: `C. Long`, `Long C`, `Long, C.`"""
    for number, first in ((place - 1, place - 1), (place + 1, place)):
        if 0 <= number < len(words) and words[number].text.isalpha():
            gap = text[words[first].end : words[first + 1].start]
            if re.fullmatch(r"[ .,:^()-]{1,4}", gap) and (len(words[number].text) > 2 or gap == ". "):
                yield number


def _is_behind_comma(text: str, words: Sequence[Word], place: int) -> bool:
    """Return whether a word and a comma precede a title: `Kopf, Dr.`"""
    return (
        place > 0
        and words[place - 1].text.isalpha()
        and bool(re.fullmatch(", {0,2}", text[words[place - 1].end : words[place].start]))
    )


def _ends(text: str, words: Sequence[Word], place: int) -> bool:
    """Return whether the text after a title is separate: `Lang, Dr. / Black`."""
    return bool(re.search("[/,;]", text[words[place].end : words[place + 1].start]))


def _is_named(text: str, words: Sequence[Word], place: int) -> bool:
    """Return whether the word before a degree may be a name: `Long MD`, `Black, PhD`."""
    before = words[place - 1]
    gap = text[before.end : words[place].start]
    return before.text.isalpha() and len(before.text) > 1 and bool(re.fullmatch("[,_]? ?", gap)) and bool(gap)


def _names_after(text: str, words: Sequence[Word], place: int) -> Iterable[int]:
    """Return the indices of the words after a title, up to the first name; none where there is no name."""
    found = []
    for number in range(place + 1, min(place + 1 + _REACH, len(words))):
        gap = text[words[number - 1].end : words[number].start]
        word = words[number].text
        if not re.fullmatch(r"[ .,:^_()/'’-]{0,4}", gap) or not word[0].isalpha():
            break
        found.append(number)
        if len(word) > 1 and word.casefold() not in _BETWEEN and not _TITLES.fullmatch(word):
            return found
    return found if any(len(words[number].text) == 1 for number in found) else []
