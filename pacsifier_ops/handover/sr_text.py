"""The text of a structured report (PS3.3 C.17.3), of any template: its content tree from top to bottom.

Three things keep such texts from being readable, and each is undone by a rule: HTML in text, UTF-8 that was taken for
Latin-1 and encoded once more, and characters of Windows where Latin-1 has control characters.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import takewhile

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from pacsifier_ops.base.errors import Unfit
from pacsifier_ops.dicom.charsets import DEFAULT, Charset

_CHARSET, _VALUE_TYPE, _RELATIONSHIP = 0x00080005, 0x0040A040, 0x0040A010
_NAME, _CONTENT, _CODE, _MEASURED = 0x0040A043, 0x0040A730, 0x0040A168, 0x0040A300
_QUALIFIER, _NUMBER, _UNITS = 0x0040A301, 0x0040A30A, 0x004008EA
_CODE_VALUES, _SCHEME, _MEANING = (0x00080100, 0x00080119, 0x00080120), 0x00080102, 0x00080104
#: Where content items have a value that is a string, by value type.
_VALUES = {
    "DATE": 0x0040A121,
    "DATETIME": 0x0040A120,
    "PNAME": 0x0040A123,
    "TEXT": 0x0040A160,
    "TIME": 0x0040A122,
}
#: What a reader is told of content that is no text.
_REFERENCES = {
    "COMPOSITE": "see object",
    "IMAGE": "see image",
    "SCOORD": "see marked region",
    "SCOORD3D": "see marked region",
    "TCOORD": "see marked time",
    "WAVEFORM": "see waveform",
}
#: Relationships of items that say of whom, by whom and how something is observed, not what.
_CONTEXT = ("HAS OBS CONTEXT", "HAS ACQ CONTEXT", "HAS CONCEPT MOD")
_LANGUAGE = ("121049", "DCM")
#: Codes that look like those of DICOM, LOINC and SNOMED.
_STANDARD = re.compile(r"[0-9]{6} DCM|[0-9]{1,7}-[0-9] LN|[0-9]{6,18} SCT|[A-Z][0-9]?-[0-9A-F]{4,5} SRT")


@dataclass(frozen=True)
class Narrative:
    """The text of a report.

    Attributes:
        text: lines in order, without one at the end.
        title: value and scheme of the code of its title, where the code is a standard one; else empty.
        language: code of the language it says it is in (RFC 5646); else empty.
    """

    text: str
    title: str
    language: str


@dataclass(frozen=True)
class _Item:
    """A content item, its text decoded."""

    kind: str
    context: bool
    code: tuple[str, str]
    name: str
    value: str
    value_code: str
    below: tuple[_Item, ...]


def narrative_of(dataset: Dataset) -> Narrative | None:
    """The text of a structured report; None where nobody wrote any, but only measured, coded or referred to objects.

    A report of which the fourth item holds the only text, as in those of Carestream, is that text alone. All others
    begin with their title; sections have their heading, and what is below something is indented.

    Args:
        dataset: as it was read from a file, its text still encoded.

    Raises:
        Exception: whatever pydicom raises where the data set is damaged.
    """
    root = _item(dataset, DEFAULT)
    if not any(item.kind == "TEXT" for item in _said(root)):
        return None
    text = _alone(root)
    if text is None:
        text = "\n".join([root.name, *_lines(root)])
    language = next((item.value_code for item in root.below if item.code == _LANGUAGE), "")
    return Narrative(
        text=tidy(repaired(text)),
        title=" ".join(root.code) if _STANDARD.fullmatch(" ".join(root.code)) else "",
        language=language if re.fullmatch(r"[A-Za-z]{2,3}(?:-[A-Za-z]{2})?", language) else "",
    )


# The content tree


def _item(dataset: Dataset, charset: Charset) -> _Item:
    if declared := _bytes(dataset, _CHARSET):
        try:
            charset = Charset.of(declared)
        except Unfit:
            charset = DEFAULT
    kind = _ascii(dataset, _VALUE_TYPE)
    value, value_code = "", ""
    if kind in _VALUES:
        value = _FORMS[kind](_text(dataset, _VALUES[kind], charset))
    elif kind == "CODE":
        for code in _items(dataset, _CODE)[:1]:
            value, value_code = _text(code, _MEANING, charset), _code(code)[0]
    elif kind == "NUM":
        value = _measured(dataset, charset)
    else:
        value = _REFERENCES.get(kind, "")
    name = next(iter(_items(dataset, _NAME)), Dataset())
    return _Item(
        kind,
        _ascii(dataset, _RELATIONSHIP) in _CONTEXT,
        _code(name),
        _text(name, _MEANING, charset).strip(),
        value,
        value_code,
        tuple(_item(below, charset) for below in _items(dataset, _CONTENT)),
    )


def _items(dataset: Dataset, tag: int) -> list[Dataset]:
    return list(dataset[tag].value or ()) if tag in dataset else []


def _bytes(dataset: Dataset, tag: int) -> bytes:
    """The value of an element as it is encoded; what pydicom would make of it depends on its character sets."""
    element = dataset.get_item(tag) if tag in dataset else None
    if isinstance(element, RawDataElement):
        value = element.value or b""
        if len(value) < element.length:
            raise ValueError("an element ends too early")
        return value
    if element is None or element.value is None:
        return b""
    several = not isinstance(element.value, str) and hasattr(element.value, "append")
    return "\\".join(map(str, element.value if several else [element.value])).encode()


def _ascii(dataset: Dataset, tag: int) -> str:
    return _bytes(dataset, tag).decode("ascii", "replace").strip(" \0")


def _text(dataset: Dataset, tag: int, charset: Charset) -> str:
    """Text in its character sets (PS3.5 6.1); where it is none in them, UTF-8, or else Latin-1."""
    value = _bytes(dataset, tag).rstrip(b" \0")
    text = charset.decode(value)
    if text is None:
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = value.decode("latin-1")
    return text


def _code(item: Dataset) -> tuple[str, str]:
    return next((code for tag in _CODE_VALUES if (code := _ascii(item, tag))), ""), _ascii(item, _SCHEME)


def _measured(dataset: Dataset, charset: Charset) -> str:
    """Value and unit (PS3.3 C.18.1), or why there is none."""
    for measured in _items(dataset, _MEASURED)[:1]:
        number, unit = _ascii(measured, _NUMBER), ""
        for code in _items(measured, _UNITS)[:1]:
            unit, scheme = _code(code)
            if scheme != "UCUM" or re.search(r"[{\[]", unit):
                unit = _text(code, _MEANING, charset)
        return number if unit in ("", "1", "no units") else f"{number} {unit}"
    for qualifier in _items(dataset, _QUALIFIER)[:1]:
        return _text(qualifier, _MEANING, charset)
    return ""


def _date(value: str) -> str:
    return re.sub(r"^(\d{4})(\d\d)(\d\d)", r"\1-\2-\3", value.strip())


def _time(value: str) -> str:
    return re.sub(r"^(\d\d)(\d\d)(?:(\d\d)(?:\.\d+)?)?", _clock, value.strip())


def _clock(match: re.Match[str]) -> str:
    return ":".join(filter(None, match.groups()))


def _moment(value: str) -> str:
    moment, _, zone = re.sub(r"(?=[+-]\d{4}$)", " ", value.strip()).partition(" ")
    return " ".join(filter(None, (_date(moment[:8]), _time(moment[8:]), zone)))


def _person(value: str) -> str:
    family, given, middle, prefix, suffix = [*next(filter(None, value.split("=")), "").split("^"), *[""] * 4][:5]
    return " ".join(part.strip() for part in (prefix, given, middle, family, suffix) if part.strip())


# Layout


def _said(item: _Item) -> Iterator[_Item]:
    """The items below one that say what was observed."""
    for below in item.below:
        if not below.context:
            if below.value and below.kind not in _REFERENCES:
                yield below
            yield from _said(below)


def _alone(root: _Item) -> str | None:
    """The text that a report of Carestream's consists of; None where there is more, or where it stands elsewhere."""
    texts = [item for item in _said(root) if item.kind == "TEXT"]
    if texts == list(_said(replace(root, below=root.below[3:]))) and len(texts) == 1:
        return texts[0].value if texts[0] in root.below[3].below else None
    return None


def _lines(parent: _Item, indent: str = "") -> Iterator[str]:
    """What is below an item, line by line; an empty line before and after each section of the first level."""
    for item in parent.below:
        if item.code == _LANGUAGE:
            continue
        if item.kind == "CONTAINER":
            heading = [indent + item.name] if item.name else []
            yield from (*heading, *_lines(item, indent + "  ")) if indent else ("", *heading, *_lines(item, "  "), "")
            continue
        if item.value:
            name = "" if item.kind == "TEXT" and _says_it(parent.name, item.name) else item.name
            lines = item.value.split("\n")
            if name and len(lines) > 1:
                yield f"{indent}{name}:"
                yield from (f"{indent}  {line}" for line in lines)
            else:
                yield f"{indent}{name}: {lines[0]}" if name else indent + lines[0]
                yield from (indent + line for line in lines[1:])
        yield from _lines(item, indent + "  ")


def _says_it(heading: str, name: str) -> bool:
    """Whether a name adds nothing to its heading, as Finding to Findings."""
    return heading.casefold().startswith(name.casefold())


def tidy(text: str) -> str:
    """Text without blanks at the ends of its lines, without control characters, and never two empty lines on end."""
    lines = [line.rstrip(" \t") for line in _CONTROLS.sub("", text).split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

# HTML

#: Elements that begin a line, those that are cells of one, and those that are nothing to a reader.
_LINES = (
    "address|article|aside|blockquote|body|br|caption|center|dd|div|dl|dt|fieldset|figure|footer|form|h[1-6]|head|"
    "header|hr|html|li|main|nav|ol|p|pre|section|table|tbody|tfoot|thead|title|tr|ul"
)
_CELLS, _VOID = "td|th", "area|base|col|img|input|link|meta|wbr|(?:o|st1|v|w):[a-z]+"
#: Elements within a line, and those whose content is not shown; they are none unless they are ended.
_INLINE = (
    "a|abbr|acronym|b|bdi|bdo|big|cite|code|colgroup|del|dfn|em|font|i|ins|kbd|label|mark|nobr|q|s|samp|small|span|"
    "strike|strong|sub|sup|time|tt|u|var"
)
_HIDDEN = ("script", "style", "!--")
_TAG = re.compile(
    rf"<(?P<end>/?)(?:(?P<line>{_LINES})|(?P<cell>{_CELLS})|(?P<void>{_VOID})|(?P<paired>{_INLINE}|script|style))"
    rf"""(?P<rest>(?:[\s/](?:"[^"<]*"|'[^'<]*'|[^<>])*+)?)>"""
    r"|(?P<comment><!--)|(?P<comment_end>-->)|(?P<declaration><!doctype[^<>]*>|<\?xml[^<>]*>)",
    re.IGNORECASE,
)
_REFERENCE = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


def plain(text: str) -> str:
    """Text without the markup of HTML: elements that begin a line do so, character references are resolved.

    What is no element of HTML is text, and so is `<` where none begins: `a < b`, `<mueller@example.org>`. Line breaks
    stay, though HTML would fill its lines: senders wrap what was typed as lines in a few tags. Empty lines go.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n")
    tags = list(_TAG.finditer(text))
    last_end = {_name(tag): tag.start() for tag in tags if _ends(tag)}
    pieces, at, hidden, marked = [], 0, "", False
    for tag in tags:
        name = _name(tag)
        if hidden:
            if name == hidden and _ends(tag):
                at, hidden = tag.end(), ""
        elif _is_markup(tag, last_end.get(name, -1)):
            pieces.append(text[at : tag.start()] + ("\n" if tag["line"] else "\t" if tag["cell"] else ""))
            at, marked = tag.end(), True
            hidden = name if name in _HIDDEN and not _ends(tag) else ""
    pieces.append(text[at:])
    lines = _REFERENCE.sub(lambda reference: html.unescape(reference[0]), "".join(pieces)).split("\n")
    if marked:
        lines = [re.sub(r"\t{2,}", "\t", line.strip(" \t")) for line in lines]
    return "\n".join(line for line in lines if line.strip(" \t"))


def _name(tag: re.Match[str]) -> str:
    """Name of a paired element."""
    return "!--" if tag["comment"] or tag["comment_end"] else (tag["paired"] or "").lower()


def _ends(tag: re.Match[str]) -> bool:
    return bool(tag["end"] or tag["comment_end"])


def _is_markup(tag: re.Match[str], last_end: int) -> bool:
    """Whether what looks like a tag is one: attributes have values, and what must be ended is."""
    if tag["comment_end"]:
        return False
    rest = (tag["rest"] or "").strip(" \t\n/")
    if rest and "=" not in rest and rest.lower() != "nowrap":
        return False
    return not (tag["paired"] or tag["comment"]) or bool(tag["end"]) or last_end > tag.start()


_FORMS = {"DATE": _date, "DATETIME": _moment, "PNAME": _person, "TEXT": plain, "TIME": _time}

# UTF-8 that was encoded once more

#: What the bytes from 0x80 to 0xBF are taken for in Latin-1 and in Windows-1252.
_BYTES = {chr(byte): byte for byte in range(0x80, 0x100)} | {
    bytes([byte]).decode("cp1252"): byte for byte in range(0x80, 0xA0) if byte not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
}
_TAILS = "".join(char for char, byte in _BYTES.items() if byte < 0xC0)
_SEQUENCE = re.compile(f"[\xc2-\xdf][{_TAILS}]|[\xe0-\xef][{_TAILS}]{{2}}|[\xf0-\xf4][{_TAILS}]{{3}}")
#: What may stand behind a letter in text that is right: before something of any kind, within a word, or at its end.
_APART, _WITHIN, _AT_END = frozenset("\xa0•·…–—"), frozenset("\xad‘’´ŠšŽžŒ"), frozenset("«»“”‹›™®†‡¹²³")
#: What may stand behind a multiplication or a diameter.
_AFTER_SIGNS = frozenset("±¼½¾°µ¹²³")
_LATIN = frozenset("ÂÃ")


def repaired(text: str) -> str:
    """Text in which UTF-8 that was taken for Latin-1 or Windows-1252, and encoded once more, is what it was.

    A letter from Â to ô with signs behind it that are together the bytes of one character in UTF-8 (RFC 3629) may be
    right: `CAFÉ»` ends a quotation. So it counts only where it cannot be: no text has such a sign behind a letter, as
    in `Ã©`, or such a capital behind a small letter, as in `dÃ»`. Text without such a place stays as it is. In a line
    with one, others that begin with the same letter count as well; where that is Â or Ã, as it is for all of Latin-1,
    those with either do in the whole text. In a line or text that has nothing but ASCII beside them, all count.

    What Windows-1252 has in place of control characters becomes that.
    """
    while (better := _once(text)) != text:
        text = better
    return _C1.sub(_windows, text)


def _once(text: str) -> str:
    letters = _certain(text)
    if not letters:
        return text
    pieces = [text] if _all_of_it(text) else text.split("\n")
    return "\n".join(_decoded(piece, _LATIN if letters & _LATIN else frozenset()) for piece in pieces)


def _certain(text: str) -> set[str]:
    """The letters that begin sequences in a text that cannot be right."""
    found = (sequence for sequence in _SEQUENCE.finditer(text) if _character(sequence))
    return {sequence[0][0] for sequence in found if not _could_be_right(sequence)}


def _all_of_it(piece: str) -> bool:
    """Whether there is nothing but ASCII beside the sequences."""
    return _SEQUENCE.sub(lambda sequence: "" if _character(sequence) else sequence[0], piece).isascii()


def _decoded(piece: str, letters: frozenset[str]) -> str:
    """A piece in which the sequences are decoded that begin with these letters, or with one that is certain in it."""
    here = _certain(piece)
    every = bool(here) and _all_of_it(piece)

    def better(sequence: re.Match[str]) -> str:
        counts = every or sequence[0][0] in here | letters
        return (counts and _character(sequence)) or sequence[0]

    return _SEQUENCE.sub(better, piece)


def _character(sequence: re.Match[str]) -> str:
    """The character of which these are the bytes in UTF-8; empty where they are none."""
    return bytes(map(_BYTES.__getitem__, sequence[0])).decode("utf-8", "ignore")


def _could_be_right(sequence: re.Match[str]) -> bool:
    letter, signs = sequence[0][0], sequence[0][1:]
    start, end = sequence.span()
    before, after = sequence.string[max(0, start - 1) : start], sequence.string[end : end + 1]
    if letter in "×Ø" and signs[0] in _AFTER_SIGNS:
        return True
    if letter.isupper() and before.islower():
        return False
    behind = list(takewhile(lambda sign: sign not in _APART, signs))
    if not all(sign in _WITHIN or sign in _AT_END for sign in behind):
        return False
    return len(behind) < len(signs) or signs[-1] in _WITHIN or not after.isalpha()


_C1 = re.compile("[\x80-\x9f]")


def _windows(control: re.Match[str]) -> str:
    return control[0].encode("latin-1").decode("cp1252", "ignore")
