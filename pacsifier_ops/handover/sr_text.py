"""The text of a structured report of any template: its content tree (PS3.3 C.17.3) from top to bottom.

Three faults of such texts are repaired: HTML in text, UTF-8 that was taken for Latin-1 and encoded once more, and
characters of Windows-1252 where Latin-1 has control characters.
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
#: Element of a value that is a string, by Value Type.
_VALUES = {
    "DATE": 0x0040A121,
    "DATETIME": 0x0040A120,
    "PNAME": 0x0040A123,
    "TEXT": 0x0040A160,
    "TIME": 0x0040A122,
}
#: Text for content items that refer to other objects, by Value Type.
_REFERENCES = {
    "COMPOSITE": "see object",
    "IMAGE": "see image",
    "SCOORD": "see marked region",
    "SCOORD3D": "see marked region",
    "TCOORD": "see marked time",
    "WAVEFORM": "see waveform",
}
#: Relationship types of items that describe the circumstances of an observation: patient, observer, acquisition.
_CONTEXT = ("HAS OBS CONTEXT", "HAS ACQ CONTEXT", "HAS CONCEPT MOD")
_LANGUAGE = ("121049", "DCM")
#: Codes in the form of those of DICOM, LOINC and SNOMED.
_STANDARD = re.compile(r"[0-9]{6} DCM|[0-9]{1,7}-[0-9] LN|[0-9]{6,18} SCT|[A-Z][0-9]?-[0-9A-F]{4,5} SRT")


@dataclass(frozen=True)
class Narrative:
    """The text of a report.

    Attributes:
        text: the lines, without a line break at the end.
        title: code value and coding scheme of its title if the code is a standard one; else empty.
        language: language tag (RFC 5646) of its content item Language; else empty.
    """

    text: str
    title: str
    language: str


@dataclass(frozen=True)
class _Item:
    """A content item, with decoded text.

    Attributes:
        kind: Value Type.
        context: whether its relationship is one of _CONTEXT.
        code: code value and coding scheme of its concept name.
        name: meaning of its concept name.
        value: its value as text.
        value_code: code value of a coded value.
        below: the content items below.
    """

    kind: str
    context: bool
    code: tuple[str, str]
    name: str
    value: str
    value_code: str
    below: tuple[_Item, ...]


def narrative_of(dataset: Dataset) -> Narrative | None:
    """Return the text of a structured report; None if it only has measurements, codes and references.

    If the only text is in the fourth content item, as in reports of Carestream, the result is this text alone. All
    others begin with their title. Sections have headings, and lower levels are indented.

    Args:
        dataset: as read from a file, with encoded text.

    Raises:
        Exception: of any type that pydicom raises for a damaged data set.
    """
    root = _item(dataset, DEFAULT)
    if not any(item.kind == "TEXT" for item in _observed(root)):
        return None
    text = _only_text(root)
    if text is None:
        text = "\n".join([root.name, *_lines(root)])
    language = next((item.value_code for item in root.below if item.code == _LANGUAGE), "")
    return Narrative(
        text=_without_blanks(repaired(text)),
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
    """Return the encoded value of an element. Decoded by pydicom, it would depend on pydicom's character sets."""
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
    """Return the text of an element, decoded with its character sets (PS3.5 6.1), else as UTF-8, else as Latin-1."""
    value = _bytes(dataset, tag).rstrip(b" \0")
    text = charset.decode(value)
    if text is None:
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = value.decode("latin-1")
    return text


def _code(item: Dataset) -> tuple[str, str]:
    """Return code value and coding scheme of an item of a code sequence."""
    return next((code for tag in _CODE_VALUES if (code := _ascii(item, tag))), ""), _ascii(item, _SCHEME)


def _measured(dataset: Dataset, charset: Charset) -> str:
    """Return value and unit of a measurement (PS3.3 C.18.1), or the qualifier that says why there is none."""
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


def _observed(item: _Item) -> Iterator[_Item]:
    """Yield the items with values below an item, without references and circumstances."""
    for below in item.below:
        if not below.context:
            if below.value and below.kind not in _REFERENCES:
                yield below
            yield from _observed(below)


def _only_text(root: _Item) -> str | None:
    """Return the text of a report of Carestream; None if the report has another form, or more content."""
    texts = [item for item in _observed(root) if item.kind == "TEXT"]
    if texts == list(_observed(replace(root, below=root.below[3:]))) and len(texts) == 1:
        return texts[0].value if texts[0] in root.below[3].below else None
    return None


def _lines(parent: _Item, indent: str = "") -> Iterator[str]:
    """Yield the lines of the items below an item. Sections of the first level have empty lines around them."""
    for item in parent.below:
        if item.code == _LANGUAGE:
            continue
        if item.kind == "CONTAINER":
            heading = [indent + item.name] if item.name else []
            yield from (*heading, *_lines(item, indent + "  ")) if indent else ("", *heading, *_lines(item, "  "), "")
            continue
        if item.value:
            name = "" if item.kind == "TEXT" and _repeats(parent.name, item.name) else item.name
            lines = item.value.split("\n")
            if name and len(lines) > 1:
                yield f"{indent}{name}:"
                yield from (f"{indent}  {line}" for line in lines)
            else:
                yield f"{indent}{name}: {lines[0]}" if name else indent + lines[0]
                yield from (indent + line for line in lines[1:])
        yield from _lines(item, indent + "  ")


def _repeats(heading: str, name: str) -> bool:
    """Whether a name repeats its heading, such as Finding below Findings."""
    return heading.casefold().startswith(name.casefold())


def _without_blanks(text: str) -> str:
    """Return a text without control characters, blanks at ends of lines, and repeated empty lines."""
    lines = [line.rstrip(" \t") for line in _CONTROLS.sub("", text).split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

# HTML

#: Elements that begin a line, cells of a line, and elements without text.
_LINES = (
    "address|article|aside|blockquote|body|br|caption|center|dd|div|dl|dt|fieldset|figure|footer|form|h[1-6]|head|"
    "header|hr|html|li|main|nav|ol|p|pre|section|table|tbody|tfoot|thead|title|tr|ul"
)
_CELLS, _VOID = "td|th", "area|base|col|img|input|link|meta|wbr|(?:o|st1|v|w):[a-z]+"
#: Elements within a line, and elements whose content is not shown. Each needs an end tag.
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
    """Return a text without HTML markup: some elements become line breaks, and character references are resolved.

    Anything that is not an HTML element stays text, as in `a < b` or `<mueller@example.org>`. Line breaks stay, though
    HTML would ignore them: senders put a few tags around lines that a person typed. Empty lines are removed.
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
    """Return the name of an element that needs an end tag; `!--` for a comment."""
    return "!--" if tag["comment"] or tag["comment_end"] else (tag["paired"] or "").lower()


def _ends(tag: re.Match[str]) -> bool:
    """Whether a tag is an end tag, or the end of a comment."""
    return bool(tag["end"] or tag["comment_end"])


def _is_markup(tag: re.Match[str], last_end: int) -> bool:
    """Whether a match is a tag: its attributes have values, and an element that needs an end tag has one.

    Args:
        last_end: position of the last end tag of the element in the text; -1: there is none.
    """
    if tag["comment_end"]:
        return False
    rest = (tag["rest"] or "").strip(" \t\n/")
    if rest and "=" not in rest and rest.lower() != "nowrap":
        return False
    return not (tag["paired"] or tag["comment"]) or bool(tag["end"]) or last_end > tag.start()


_FORMS = {"DATE": _date, "DATETIME": _moment, "PNAME": _person, "TEXT": plain, "TIME": _time}

# UTF-8 that was encoded once more

#: Byte of each character that Latin-1 or Windows-1252 gives for the bytes from 0x80 on.
_BYTES = {chr(byte): byte for byte in range(0x80, 0x100)} | {
    bytes([byte]).decode("cp1252"): byte for byte in range(0x80, 0xA0) if byte not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
}
_TAILS = "".join(char for char, byte in _BYTES.items() if byte < 0xC0)
_SEQUENCE = re.compile(f"[\xc2-\xdf][{_TAILS}]|[\xe0-\xef][{_TAILS}]{{2}}|[\xf0-\xf4][{_TAILS}]{{3}}")
#: Characters that may follow a letter in correct text: those that end a word, those within a word, those at its end.
_APART, _WITHIN, _AT_END = frozenset("\xa0•·…–—"), frozenset("\xad‘’´ŠšŽžŒ"), frozenset("«»“”‹›™®†‡¹²³")
#: Characters that may follow the signs of multiplication and diameter in correct text.
_AFTER_SIGNS = frozenset("±¼½¾°µ¹²³")
#: The letters that begin the UTF-8 bytes of every character of Latin-1.
_LATIN = frozenset("ÂÃ")


def repaired(text: str) -> str:
    """Return a text whose doubly encoded parts are decoded: UTF-8 that was taken for Latin-1 or Windows-1252.

    A sequence is a letter from Â to ô with characters behind it that together are the UTF-8 bytes of one character
    (RFC 3629). Such a sequence may be correct text: `CAFÉ»` ends a quotation. It is certainly wrong if correct text
    never has these characters behind a letter, as in `Ã©`, or a capital behind a small letter, as in `dÃ»`.

    - A text without a sequence that is certainly wrong stays as it is.
    - In a line with one, all sequences that begin with the same letter are decoded.
    - If that letter is Â or Ã, sequences that begin with either are decoded in the whole text: these two letters begin
      the bytes of all characters of Latin-1.
    - In a line or text with one that is ASCII apart from sequences, all are decoded.

    Control characters of Latin-1 become the characters that Windows-1252 has in their places.
    """
    while (decoded := _decoded_once(text)) != text:
        text = decoded
    return _C1.sub(_windows, text)


def _decoded_once(text: str) -> str:
    letters = _wrong_letters(text)
    if not letters:
        return text
    pieces = [text] if _is_ascii_apart(text) else text.split("\n")
    return "\n".join(_decoded(piece, _LATIN if letters & _LATIN else frozenset()) for piece in pieces)


def _wrong_letters(text: str) -> set[str]:
    """Return the first letters of the sequences that are certainly wrong."""
    found = (sequence for sequence in _SEQUENCE.finditer(text) if _character(sequence))
    return {sequence[0][0] for sequence in found if not _may_be_correct(sequence)}


def _is_ascii_apart(piece: str) -> bool:
    """Whether a text is ASCII apart from its sequences."""
    return _SEQUENCE.sub(lambda sequence: "" if _character(sequence) else sequence[0], piece).isascii()


def _decoded(piece: str, letters: frozenset[str]) -> str:
    """Decode the sequences that begin with these letters, or with the letter of one that is certainly wrong."""
    wrong = _wrong_letters(piece)
    every = bool(wrong) and _is_ascii_apart(piece)

    def decoded(sequence: re.Match[str]) -> str:
        counts = every or sequence[0][0] in wrong | letters
        return (counts and _character(sequence)) or sequence[0]

    return _SEQUENCE.sub(decoded, piece)


def _character(sequence: re.Match[str]) -> str:
    """Return the character whose UTF-8 bytes a sequence stands for; empty if these are no character."""
    return bytes(map(_BYTES.__getitem__, sequence[0])).decode("utf-8", "ignore")


def _may_be_correct(sequence: re.Match[str]) -> bool:
    """Whether correct text can contain a sequence here."""
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
