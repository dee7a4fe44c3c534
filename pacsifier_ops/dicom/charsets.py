"""Specific character sets (PS3.3 C.12.1.1.2, PS3.5 6.1), decoded strictly: undecodable bytes are an error."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from functools import lru_cache

from pydicom.charset import (
    CODES_TO_ENCODINGS,
    STAND_ALONE_ENCODINGS,
    encode_string,
    handled_encodings,
    python_encoding,
)

from pacsifier_ops.base.errors import Unfit

_ESC, _ASCII, _NONE = b"\x1b", b"\x1b(B", b""
_DEFAULT = {"", "ISO_IR 6", "ISO 2022 IR 6"}


@dataclass(frozen=True, slots=True)
class Charset:
    """The character sets of a data set.

    Attributes:
        codecs: names of Python's codecs, the initial one first.
        extended: whether escape sequences switch between them.
    """

    codecs: tuple[str, ...]
    extended: bool = False

    @classmethod
    def of(cls, value: bytes) -> Charset:
        """Return the character sets that SpecificCharacterSet (0008,0005) names.

        Raises:
            Unfit: a name is unknown, or several are combined of which one must stand alone.
        """
        return _charset(value)

    def decode(self, value: bytes) -> str | None:
        """Decode a value; None where these character sets cannot decode it."""
        try:
            if _ESC not in value:
                return value.decode("ascii" if value.isascii() else self.codecs[0])
            return "".join(map(self._fragment, re.split(rb"(?=\x1b)", value))) if self.extended else None
        except (UnicodeDecodeError, LookupError):
            return None

    def _fragment(self, fragment: bytes) -> str:
        """Decode the bytes after one escape sequence; the first fragment has none."""
        if not fragment.startswith(_ESC):
            return fragment.decode(self.codecs[0])
        code = next((code for code in CODES_TO_ENCODINGS if fragment.startswith(code)), _NONE)
        codec = self.codecs[0] if code == _ASCII else CODES_TO_ENCODINGS.get(code, "")
        if codec not in self.codecs:
            raise LookupError("no escape sequence of these character sets")
        if codec in handled_encodings:  # Python's codecs need the escape sequence
            return fragment.decode(codec)
        return fragment[len(code) :].decode(codec)

    def encode(self, text: str) -> bytes | None:
        """Encode a text; None where these character sets lack a letter of it."""
        if text.isascii():
            return text.encode()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # pydicom would warn and write question marks for missing letters
                value = encode_string(text, list(self.codecs)) if self.extended else text.encode(self.codecs[0])
        except (UnicodeEncodeError, ValueError, LookupError, UserWarning):
            return None
        return value if self.decode(value) == text else None


#: Default repertoire: ASCII (ISO-IR 6).
DEFAULT = Charset(("ascii",))


@lru_cache(maxsize=256)
def _charset(value: bytes) -> Charset:
    names = [name.strip(b" \0").decode("latin-1") for name in value.split(b"\\")]
    if any(name not in python_encoding for name in names):
        raise Unfit("its SpecificCharacterSet is unknown")
    if len(names) == 1 and names[0] in _DEFAULT:
        return DEFAULT
    if len(names) > 1 and any(name in STAND_ALONE_ENCODINGS for name in names):
        raise Unfit("its SpecificCharacterSet combines character sets that cannot be combined")
    codecs = tuple(dict.fromkeys("ascii" if name in _DEFAULT else python_encoding[name] for name in names))
    return Charset(codecs, any("2022" in name for name in names))


#: Common misspellings of the names of PS3.3 C.12.1.1.2.
_MISSPELT = (
    (re.compile(rb"ISO[ _-]?IR[ _-]?(\d+)"), rb"ISO_IR \1"),
    (re.compile(rb"ISO[ _-]?2022[ _-]IR[ _-]?(\d+)"), rb"ISO 2022 IR \1"),
    (re.compile(rb"GB[ _-]18030"), b"GB18030"),
    (re.compile(rb"UTF[ _-]?8"), b"ISO_IR 192"),
    (re.compile(rb"ISO[ _-]?8859[ _/-]1"), b"ISO_IR 100"),
)


@lru_cache(maxsize=256)
def corrected(value: bytes) -> bytes:
    """Return a SpecificCharacterSet (0008,0005) in the spelling of the standard, where the meaning is clear."""
    names = [name.strip(b" \0") for name in value.split(b"\\")]
    if all(name.decode("latin-1") in python_encoding for name in names):
        return value
    right = b"\\".join(_correct(name) for name in names)
    return right + b" " * (len(right) % 2)


def _correct(name: bytes) -> bytes:
    for wrong, right in _MISSPELT:
        if wrong.fullmatch(name.upper()):
            return wrong.sub(right, name.upper())
    return name
