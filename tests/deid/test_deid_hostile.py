"""Files that nobody should write: each is de-identified, or refused with a reason. None gets through, none crashes."""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
)

from pacsifier_ops.base.errors import Unfit
from pacsifier_ops.deid import profile, reading, remarks, writing
from pacsifier_ops.deid.engine import Engine
from pacsifier_ops.deid.exclusion import Kind, judge
from pacsifier_ops.deid.rules import ProfileOption
from pacsifier_ops.deid.verifier import Identifiers, search
from pacsifier_ops.dicom.encoding import Fragments
from pacsifier_ops.pseudonyms.linkage import Person
from pacsifier_ops.pseudonyms.secret import Secret
from tests.support.places import REPO

#: Warnings of pydicom hold values.
pytestmark = pytest.mark.filterwarnings("error")

PERSON, SECRET = Person("P7XK2M9QW4", -11), Secret(b"k" * 32)
NAME, ID = "Zwetschgenbaum^Notburga", "QX9917342"
OLD_UID = "1.2.840.113619.2.55.3.604688119.969.1268071029"
#: None of it may be left outside of pixels, in whatever case.
TOLD = [b"zwetschgenbaum", b"notburga", b"qx9917342", b"9917342", b"604688119", b"19370419"]
UNDEFINED = 0xFFFFFFFF
LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")


@cache
def rules(name: str = "research") -> profile.Rules:
    """As much is kept as a shipped profile keeps."""
    more = (
        [ProfileOption.CLEAN_GRAPHICS, ProfileOption.CLEAN_STRUCTURED_CONTENT, ProfileOption.INSTITUTION]
        if name == "research"
        else []
    )
    return profile.compile(profile.load(name, add=more))


def published(path: Path, rules: profile.Rules) -> bytes | str:
    """What goes out of a file; a reason where nothing does."""
    out = path.with_name("out.dcm")
    try:
        ds = reading.read(path)
        identifiers = Identifiers.of(ds, PERSON, rules)
        outcome = Engine(rules, SECRET).deidentify(ds, PERSON)
        writing.write(outcome.dataset, out)
    except Unfit as unfit:
        assert unfit.reason
        return unfit.reason
    if reasons := search(out, identifiers):
        return "; ".join(reasons)
    return out.read_bytes()


def without_pixels(data: bytes) -> bytes:
    """The bytes of a file, without the last pixel data; those of a deflated object inflated."""
    ds = pydicom.dcmread(BytesIO(data))
    if ds.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
        data = data[:400] + zlib.decompress(data[144 + ds.file_meta.FileMetaInformationGroupLength :], -15)
    pixels = ds.get("PixelData") or b"\xff\xff\xff\xff"
    begin = data.rfind(pixels)
    return data[:begin] + data[begin + len(pixels) :] if begin >= 0 else data


def told(data: bytes) -> list[str]:
    """What of the patient is left."""
    low = without_pixels(data).lower()
    return [one.decode() for one in TOLD if one in low or one in low.replace(b"\0", b"")]


# Files by hand


def element(tag: int, vr: str, value: bytes | str, length: int | None = None, order: str = "<") -> bytes:
    """A data element in explicit VR, with whatever length."""
    data = value.encode("latin-1") if isinstance(value, str) else value
    if length is None:
        data += b"\0" * (len(data) % 2) if vr in ("UI", "OB", "UN") else b" " * (len(data) % 2)
        length = len(data)
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    if vr.encode() in LONG:
        return head + b"\0\0" + struct.pack(f"{order}L", length) + data
    return head + struct.pack(f"{order}H", length & 0xFFFF) + data


def implicit(tag: int, value: bytes | str, length: int | None = None) -> bytes:
    data = value.encode("latin-1") if isinstance(value, str) else value
    data += b" " * (len(data) % 2)
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(data) if length is None else length) + data


def item(content: bytes, undefined: bool = False) -> bytes:
    if undefined:
        return b"\xfe\xff\0\xe0\xff\xff\xff\xff" + content + b"\xfe\xff\x0d\xe0\0\0\0\0"
    return b"\xfe\xff\0\xe0" + struct.pack("<L", len(content)) + content


def sequence(tag: int, *items: bytes, undefined: bool = False, vr: str = "SQ") -> bytes:
    joined = b"".join(items)
    if undefined:
        return element(tag, vr, joined + b"\xfe\xff\xdd\xe0\0\0\0\0", UNDEFINED)
    return element(tag, vr, joined)


#: An object that tells its patient in many places; by tag, so that a case can take the place of any.
CT: dict[int, bytes] = {
    0x00080005: element(0x00080005, "CS", "ISO_IR 192"),
    0x00080008: element(0x00080008, "CS", "ORIGINAL\\PRIMARY\\AXIAL"),
    0x00080016: element(0x00080016, "UI", CTImageStorage),
    0x00080018: element(0x00080018, "UI", f"{OLD_UID}.1"),
    0x00080020: element(0x00080020, "DA", "20150512"),
    0x00080030: element(0x00080030, "TM", "101530"),
    0x00080050: element(0x00080050, "SH", ID),
    0x00080060: element(0x00080060, "CS", "CT"),
    0x00080070: element(0x00080070, "LO", "SIEMENS"),
    0x00080090: element(0x00080090, "PN", NAME),
    0x0008103E: element(0x0008103E, "LO", f"Thorax {NAME}"),
    0x00081070: element(0x00081070, "PN", NAME),
    0x00100010: element(0x00100010, "PN", NAME),
    0x00100020: element(0x00100020, "LO", ID),
    0x00100030: element(0x00100030, "DA", "19370419"),
    0x00100040: element(0x00100040, "CS", "F"),
    0x00101000: element(0x00101000, "LO", f"{ID}\\{ID[2:]}"),
    0x00101001: element(0x00101001, "PN", NAME),
    0x00104000: element(0x00104000, "LT", f"{NAME}, born 19370419"),
    0x00180050: element(0x00180050, "DS", "1.5"),
    0x00181000: element(0x00181000, "LO", "73472"),
    0x00181030: element(0x00181030, "LO", "Thorax"),
    0x0020000D: element(0x0020000D, "UI", f"{OLD_UID}.2"),
    0x0020000E: element(0x0020000E, "UI", f"{OLD_UID}.3"),
    0x00200010: element(0x00200010, "SH", ID),
    0x00200011: element(0x00200011, "IS", "3"),
    0x00200013: element(0x00200013, "IS", "1"),
    0x00200052: element(0x00200052, "UI", f"{OLD_UID}.4"),
    0x00280002: element(0x00280002, "US", b"\1\0"),
    0x00280004: element(0x00280004, "CS", "MONOCHROME2"),
    0x00280010: element(0x00280010, "US", b"\2\0"),
    0x00280011: element(0x00280011, "US", b"\2\0"),
    0x00280100: element(0x00280100, "US", b"\x10\0"),
    0x00280101: element(0x00280101, "US", b"\x0c\0"),
    0x00280102: element(0x00280102, "US", b"\x0b\0"),
    0x00280103: element(0x00280103, "US", b"\0\0"),
    0x00400275: sequence(
        0x00400275, item(element(0x00400007, "LO", f"CT {NAME}") + element(0x00401001, "SH", ID)), undefined=True
    ),
    0x7FE00010: element(0x7FE00010, "OW", bytes(range(8))),
}


def meta(syntax: str = ExplicitVRLittleEndian, *more: bytes, uid: str = f"{OLD_UID}.1") -> bytes:
    """File meta information (PS3.10 7.1)."""
    elements = [
        element(0x00020001, "OB", b"\0\1"),
        element(0x00020002, "UI", CTImageStorage),
        element(0x00020003, "UI", uid),
        element(0x00020010, "UI", syntax),
        element(0x00020012, "UI", "1.2.276.0.7230010.3.0.3.6.4"),
        *more,
    ]
    data = b"".join(elements)
    return element(0x00020000, "UL", struct.pack("<L", len(data))) + data


def ct(*more: bytes, preamble: bytes = bytes(128), head: bytes = b"", tail: bytes = b"") -> bytes:
    """The object, with elements that take the place of its own or are added in the order of their tags."""
    elements = dict(CT)
    for one in more:
        group, number = struct.unpack("<HH", one[:4])
        elements[group << 16 | number] = one
    return preamble + b"DICM" + (head or meta()) + b"".join(elements[tag] for tag in sorted(elements)) + tail


def nested(depth: int, undefined: bool) -> bytes:
    content = element(0x00081030, "LO", ID) + element(0x00100010, "PN", NAME)
    for _ in range(depth):
        content = sequence(0x00081140, item(content, undefined), undefined=undefined)
    return content


def in_syntax(syntax: str, more: bytes = b"") -> bytes:
    """The object in another transfer syntax."""
    ds = pydicom.dcmread(BytesIO(ct()))
    for _ in ds.iterall():
        pass
    ds.file_meta.TransferSyntaxUID = syntax
    stream = BytesIO()
    pydicom.dcmwrite(
        stream, ds, little_endian=syntax != ExplicitVRBigEndian, implicit_vr=syntax == ImplicitVRLittleEndian
    )
    return stream.getvalue() + more


def swapped(*elements: bytes, before: int = 0x00100010) -> bytes:
    """The object with bytes that stand where no element can be put by its tag."""
    place = ct().index(CT[before])
    return ct()[:place] + b"".join(elements) + ct()[place:]


BARE = NAME.replace("^", " ")
SAFE = element(0x00710010, "LO", "Philips PET Private Group")

CASES: dict[str, Callable[[], bytes]] = {
    "as it is": ct,
    "implicit VR": lambda: in_syntax(ImplicitVRLittleEndian),
    "big endian": lambda: in_syntax(ExplicitVRBigEndian),
    "deflated": lambda: in_syntax(DeflatedExplicitVRLittleEndian),
    "deflated, with more behind": lambda: in_syntax(DeflatedExplicitVRLittleEndian, NAME.encode()),
    "nesting 50 deep": lambda: ct(nested(50, False)),
    "nesting 50 deep, undefined lengths": lambda: ct(nested(50, True)),
    "nesting 3000 deep": lambda: ct(nested(3000, True)),
    "an element's length past the end": lambda: ct(tail=element(0xFFFCFFFC, "OB", NAME, 4000)),
    "a sequence's length past the end": lambda: ct(element(0x00081140, "SQ", item(CT[0x00100010]), 100000)),
    "an item's length past its sequence": lambda: ct(
        element(0x00081140, "SQ", b"\xfe\xff\0\xe0" + struct.pack("<L", 1000) + CT[0x00100010])
    ),
    "cut off within a header": lambda: ct()[:-15],
    "cut off within the pixels": lambda: ct()[:-3],
    "duplicate tags": lambda: swapped(CT[0x00100010], element(0x00100010, "PN", "Other^Name")),
    "duplicate of an attribute that stays": lambda: swapped(
        element(0x00080070, "LO", NAME), element(0x00080070, "LO", "SIEMENS"), before=0x00080090
    ),
    "out of order": lambda: ct(tail=CT[0x00100010] + CT[0x0008103E]),
    "a stray item delimiter": lambda: swapped(b"\xfe\xff\x0d\xe0\0\0\0\0"),
    "a stray sequence delimiter": lambda: swapped(b"\xfe\xff\xdd\xe0\0\0\0\0"),
    "a stray item": lambda: swapped(item(CT[0x00100010])),
    **{
        f"PatientName as {vr}": lambda vr=vr: ct(element(0x00100010, vr, NAME))  # type: ignore[misc]
        for vr in ("LO", "CS", "DS", "UI", "US", "OB", "UN", "UT", "AT", "FD", "ZZ", "SQ", "DA", "  ")
    },
    **{
        f"an attribute that stays as {vr}": lambda vr=vr: ct(element(0x00080070, vr, BARE))  # type: ignore[misc]
        for vr in ("PN", "CS", "DS", "UI", "OB", "UN", "UT", "AT", "OW", "ZZ", "TM")
    },
    "text in numbers": lambda: ct(element(0x00280010, "US", NAME), element(0x00189073, "FD", f"{ID}{ID}{ID}"[:24])),
    "a UID as text": lambda: ct(element(0x0020000D, "LO", OLD_UID), element(0x00081155, "SH", OLD_UID[:16])),
    "a name in a UID": lambda: ct(element(0x00200052, "UI", "1.2.Zwetschgenbaum.3")),
    "a name in the class": lambda: ct(element(0x00081150, "UI", "1.2.840.10008.Notburga")),
    "an old UID as a class": lambda: ct(element(0x00081150, "UI", f"{OLD_UID}.2")),
    "a UID that begins like a registered one": lambda: ct(
        element(0x00081150, "UI", "1.2.840.10008.9917342"), element(0x00200052, "UI", "1.2.840.10008.9917342")
    ),
    "an identifier in CS": lambda: ct(element(0x00180022, "CS", "ZWETSCHGENBAUM"), element(0x00185100, "CS", ID)),
    "an identifier in DS": lambda: ct(element(0x00180050, "DS", "9917342"), element(0x00181151, "DS", "Notburga")),
    "an identifier in IS": lambda: ct(element(0x00200013, "IS", "9917342"), element(0x00200011, "IS", "QX9917342")),
    "an identifier in AE": lambda: ct(element(0x00080054, "AE", "NOTBURGA")),
    "an identifier in AS": lambda: ct(element(0x00101010, "AS", "Notburga")),
    "an identifier in DA, TM and DT": lambda: ct(
        element(0x00080022, "DA", "Notburga"),
        element(0x00080032, "TM", "Notburga"),
        element(0x0008002A, "DT", "19370419Notburga"),
        element(0x00080023, "DA", "19370419"),
        element(0x00080021, "DA", "1937.04.19"),
    ),
    "an identifier in what a device writes": lambda: ct(
        element(0x00080070, "LO", BARE), element(0x00181020, "LO", f"V1\\{ID}"), element(0x00181210, "SH", "Notburga")
    ),
    "several patients": lambda: ct(element(0x00100010, "PN", f"A^B\\{NAME}"), element(0x00100020, "LO", f"1\\{ID}")),
    "preamble": lambda: ct(preamble=b"II*\0" + NAME.encode() + bytes(101)),
    "file meta: private information": lambda: ct(
        head=meta(
            ExplicitVRLittleEndian,
            element(0x00020016, "AE", "NOTBURGA"),
            element(0x00020017, "AE", "QX9917342"),
            element(0x00020018, "AE", "ZWETSCHGENBAUM"),
            element(0x00020026, "UR", f"http://host/{ID}"),
            element(0x00020100, "UI", OLD_UID),
            element(0x00020102, "OB", NAME),
        )
    ),
    "file meta: another UID": lambda: ct(head=meta(uid=f"{OLD_UID}.77")),
    "file meta: a wrong length": lambda: ct(head=element(0x00020000, "UL", b"\x10\0\0\0") + meta()[12:]),
    "file meta: an unknown syntax": lambda: ct(head=meta("1.2.3.4")),
    "file meta: another syntax than it is": lambda: ct(head=meta(ImplicitVRLittleEndian)),
    "no file meta": lambda: ct()[ct().index(CT[0x00080005]) :],
    "no prefix": lambda: ct()[132:],
    "commands": lambda: (
        ct()[: ct().index(CT[0x00080005])]
        + element(0, "UL", b"\0\0\0\0")
        + element(0x00001031, "AE", "NOTBURGA")
        + ct()[ct().index(CT[0x00080005]) :]
    ),
    "directory records": lambda: swapped(
        element(0x00041130, "CS", "NOTBURGA"),
        sequence(0x00041220, item(element(0x00041500, "CS", "NOTBURGA\\QX9917342") + CT[0x00100010])),
        before=0x00080005,
    ),
    "groups that cannot be": lambda: swapped(
        element(0x00010010, "LO", NAME),
        element(0x00031010, "LO", NAME),
        element(0x00051010, "LO", NAME),
        before=0x00080005,
    ),
    "the last group": lambda: ct(tail=element(0xFFFF0010, "LO", NAME) + element(0xFFFF1010, "LO", NAME)),
    "trailing padding": lambda: ct(tail=element(0xFFFCFFFC, "OB", NAME)),
    "bytes behind the object": lambda: ct(tail=NAME.encode()),
    "a few bytes behind the object": lambda: ct(tail=b"QX99173"),
    "pixels longer than the image": lambda: ct(element(0x7FE00010, "OW", bytes(range(8)) + NAME.encode())),
    "an odd length": lambda: ct(
        element(0x00104000, "LT", f"{NAME}.", len(NAME) + 1), element(0x00081030, "LO", "abc", 3)
    ),
    "a sequence in UN": lambda: ct(
        sequence(0x00400275, item(implicit(0x00100010, NAME) + implicit(0x00400007, ID)), vr="UN"),
        sequence(0x00081140, item(implicit(0x00081155, OLD_UID)), undefined=True, vr="UN"),
    ),
    "a sequence in UN, explicit VR": lambda: ct(sequence(0x00400275, item(CT[0x00100010]), vr="UN")),
    "a private sequence in UN": lambda: ct(
        element(0x00090010, "LO", "ACME"), sequence(0x00091001, item(implicit(0x00100010, NAME)), vr="UN")
    ),
    "an undefined length in text": lambda: ct(
        element(0x0040A160, "UT", NAME.encode() + b"\xfe\xff\xdd\xe0\0\0\0\0", UNDEFINED)
    ),
    "an undefined length in bytes": lambda: ct(
        element(0x00282000, "OB", item(NAME.encode()) + b"\xfe\xff\xdd\xe0\0\0\0\0", UNDEFINED)
    ),
    "fragments in an uncompressed syntax": lambda: ct(
        element(0x7FE00010, "OB", item(b"") + item(NAME.encode() + b"\0") + b"\xfe\xff\xdd\xe0\0\0\0\0", UNDEFINED)
    ),
    "an undefined length that never ends": lambda: ct(element(0x00400275, "SQ", item(CT[0x00100010]), UNDEFINED)),
    "a character set within an item": lambda: ct(
        sequence(
            0x00400275,
            item(
                element(0x00080005, "CS", "\\ISO 2022 IR 87")
                + element(0x00100010, "PN", b"Zwetschgenbaum=\x1b$B;3ED\x1b(B")
                + element(0x00400007, "LO", b"\x1b$B;3ED\x1b(B Notburga")
            ),
            item(element(0x00080005, "CS", "GB18030") + element(0x00081030, "LO", b"\xd5\xc5 Notburga\x8a\x5c")),
        )
    ),
    "a character set that is none": lambda: ct(
        element(0x00080005, "CS", "NOTBURGA"), element(0x00081030, "LO", b"\xff\xfe x")
    ),
    "bytes that the character set has not": lambda: ct(
        element(0x00081030, "LO", b"\xff\xfe Notburga"), element(0x00100010, "PN", b"\xe9\xe8^Zwetschgenbaum")
    ),
    "escapes without a character set": lambda: ct(element(0x00081030, "LO", b"\x1b$B;3ED\x1b(BNotburga\x1b$")),
    "controls and zeros in text": lambda: ct(
        element(0x00081030, "LO", b"Not\0burga\x01\x02 Zwetschgenbaum\0\0"),
        element(0x00100020, "LO", b"\0QX9917342\0\0"),
    ),
    "private creators that collide": lambda: swapped(
        element(0x00090010, "LO", "ACME"),
        element(0x00090010, "LO", "Philips PET Private Group"),
        element(0x00091001, "LO", NAME),
        element(0x00091100, "LO", ID),
        before=0x00100010,
    ),
    "a private creator that is a name": lambda: ct(element(0x00090010, "LO", NAME), element(0x00091001, "LO", "x")),
    "private elements without a creator": lambda: ct(element(0x00091001, "LO", NAME), element(0x00090001, "LO", NAME)),
    "a safe private element that is not": lambda: ct(
        element(0x70530010, "LO", "Philips PET Private Group"),
        element(0x70531000, "DS", "9917342"),
        element(0x70531009, "LO", NAME),
        element(0x70531003, "ST", NAME),
    ),
    "a safe private block twice": lambda: ct(
        element(0x70530010, "LO", "Philips PET Private Group"),
        element(0x70530011, "LO", "Philips PET Private Group"),
        element(0x70531100, "DS", "Notburga"),
        element(0x70531000, "UN", NAME),
    ),
    "overlays and curves": lambda: ct(
        element(0x60000022, "LO", NAME),
        element(0x60003000, "OW", NAME),
        element(0x60024000, "LT", ID),
        element(0x50000020, "CS", "NOTBURGA"),
        element(0x50003000, "OW", NAME),
        element(0x601E3000, "OW", NAME),
    ),
    "an icon": lambda: ct(
        sequence(0x00880200, item(element(0x00081030, "LO", NAME) + element(0x7FE00010, "OW", NAME)))
    ),
    "original attributes": lambda: ct(
        sequence(
            0x04000561,
            item(sequence(0x04000550, item(CT[0x00100010] + CT[0x00100020])) + element(0x04000564, "LO", NAME)),
        )
    ),
    "a digital signature": lambda: ct(sequence(0xFFFAFFFA, item(element(0x04000115, "OB", NAME)))),
    "a document": lambda: ct(element(0x00420011, "OB", f"%PDF-1.4 ({NAME}) ")),
    "lookup tables with text": lambda: ct(element(0x00281201, "OW", NAME), element(0x00283006, "OW", ID)),
    "URLs and long text": lambda: ct(
        element(0x0008010E, "UR", f"https://host/{ID}"),
        element(0x00081190, "UR", f"https://host/?p={NAME}"),
        element(0x0040A160, "UT", f"{NAME} " * 5000),
        element(0x00189810, "UC", NAME),
    ),
    "an empty file": lambda: b"",
    "zeros": lambda: bytes(4096),
    "text": lambda: f"PatientName: {NAME}".encode() * 40,
    "a prefix and nothing else": lambda: bytes(128) + b"DICM",
    "file meta and nothing else": lambda: bytes(128) + b"DICM" + meta(),
}


def encapsulated(*parts: bytes) -> bytes:
    """The object with compressed pixels, which are whatever they are."""
    return ct(element(0x7FE00010, "OB", b"".join(parts), UNDEFINED), head=meta(JPEGBaseline8Bit))


def put(data: bytes, old: bytes, new: bytes) -> bytes:
    """The bytes with some of them replaced; they must be there."""
    assert old in data
    return data.replace(old, new, 1)


def zlib_stream(trailer: bytes = b"", **kind: int) -> bytes:
    """The object deflated, in a stream of another kind."""
    data = in_syntax(DeflatedExplicitVRLittleEndian)
    begin = 144 + pydicom.dcmread(BytesIO(data)).file_meta.FileMetaInformationGroupLength
    plain = zlib.decompress(data[begin:], -15)
    packer = zlib.compressobj(wbits=kind.get("wbits", -15))
    return data[:begin] + packer.compress(plain) + packer.flush() + (trailer or b"")


def gzip_trailer() -> bytes:
    data = in_syntax(DeflatedExplicitVRLittleEndian)
    plain = zlib.decompress(data[144 + pydicom.dcmread(BytesIO(data)).file_meta.FileMetaInformationGroupLength :], -15)
    return struct.pack("<LL", zlib.crc32(plain), len(plain))


def body() -> bytes:
    """The object without what precedes its data set."""
    return ct()[ct().index(CT[0x00080005]) :]


_SEQUENCE_END, _ITEM_END = b"\xfe\xff\xdd\xe0\0\0\0\0", b"\xfe\xff\x0d\xe0\0\0\0\0"
_JPEG = item(b"") + item(b"\xff\xd8\xff\xd9")

#: What devices and tools write wrong: the file, and what is counted.
MENDED: dict[str, tuple[Callable[[], bytes], str]] = {
    "no preamble": (lambda: ct()[132:], "no-preamble"),
    "no preamble, no file meta": (body, "file-meta"),
    "file meta without a transfer syntax": (
        lambda: ct(head=put(meta(), element(0x00020010, "UI", ExplicitVRLittleEndian), b"")),
        "file-meta",
    ),
    "file meta in implicit VR": (
        lambda: ct(
            head=implicit(0x00020002, f"{CTImageStorage}\0") + implicit(0x00020010, f"{ExplicitVRLittleEndian}\0")
        ),
        "file-meta",
    ),
    "explicit VR, called implicit": (lambda: ct(head=meta(ImplicitVRLittleEndian)), "transfer-syntax"),
    "implicit VR, called explicit": (
        lambda: put(in_syntax(ImplicitVRLittleEndian), b"1.2.840.10008.1.2\0", b"1.2.840.10008.1.2.1\0").replace(
            b"UI\x12\x001.2.840.10008.1.2.1\0", b"UI\x14\x001.2.840.10008.1.2.1\0"
        ),
        "transfer-syntax",
    ),
    "a zlib header": (lambda: zlib_stream(wbits=15), "deflated"),
    "a trailer of gzip": (lambda: zlib_stream(gzip_trailer()), "deflated"),
    "zeros behind what was deflated": (lambda: zlib_stream(bytes(511)), "deflated"),
    "zeros up to a sector": (lambda: ct(tail=bytes(1021)), "zeros"),
    "seven zeros": (lambda: ct(tail=bytes(7)), "zeros"),
    "an odd length of text": (lambda: ct(element(0x00081030, "LO", "Thorax1", 7)), "odd-length"),
    "an odd length that does not count the padding": (
        lambda: ct(element(0x00081030, "LO", "Thorax1 ", 7)),
        "odd-length",
    ),
    "an odd length of pixels": (
        lambda: ct(
            element(0x00280010, "US", b"\1\0"),
            element(0x00280011, "US", b"\7\0"),
            element(0x00280100, "US", b"\x08\0"),
            element(0x7FE00010, "OB", bytes(range(7)), 7),
        ),
        "odd-length",
    ),
    "an odd length of numbers": (lambda: ct(element(0x00280106, "US", b"abc", 3)), "odd-length"),
    "a fragment of an odd length": (
        lambda: encapsulated(item(b""), item(b"\xff\xd8\xff\xff\xd9"), _SEQUENCE_END),
        "odd-length",
    ),
    "?? with a long length": (lambda: swapped(_raw_header(0x00091001, b"??\0\0", "<L")), "vr"),
    "?? with a short length": (lambda: swapped(_raw_header(0x00091001, b"??", "<H")), "vr"),
    "an OB with a short length": (lambda: swapped(_raw_header(0x00091001, b"OB", "<H")), "length"),
    "reserved bytes that are not zero": (lambda: swapped(_raw_header(0x00091001, b"OB\xff\x7f", "<L")), "length"),
    "an element twice, the same": (lambda: swapped(CT[0x00100010]), "twice"),
    "elements that are not in order": (lambda: ct(tail=element(0x00081030, "LO", "Thorax")), "order"),
    "zeros instead of the pixels' delimiter": (lambda: encapsulated(_JPEG, bytes(8)), "delimiter"),
    "no delimiter behind the pixels": (lambda: encapsulated(_JPEG), "delimiter"),
    "a delimiter behind the pixels without a length": (
        lambda: encapsulated(_JPEG, b"\xfe\xff\xdd\xe0\xff\xff\xff\xff"),
        "delimiter",
    ),
    "an item that ends with its sequence": (
        lambda: ct(
            element(0x00400275, "SQ", b"\xfe\xff\0\xe0\xff\xff\xff\xff" + CT[0x00100010] + _SEQUENCE_END, UNDEFINED)
        ),
        "delimiter",
    ),
    "a sequence that ends as an item": (
        lambda: ct(element(0x00400275, "SQ", item(CT[0x00100010]) + _ITEM_END, UNDEFINED)),
        "delimiter",
    ),
    "an item with a length and a delimiter": (
        lambda: ct(element(0x00400275, "SQ", item(CT[0x00100010]) + _ITEM_END + _SEQUENCE_END, UNDEFINED)),
        "delimiter",
    ),
    "a sequence with a length and a delimiter": (
        lambda: ct(element(0x00400275, "SQ", item(CT[0x00100010]) + _SEQUENCE_END)),
        "delimiter",
    ),
    "items in implicit VR": (
        lambda: ct(sequence(0x00400275, item(implicit(0x00100010, NAME) + implicit(0x00400007, ID)))),
        "items",
    ),
    "items in implicit VR, undefined lengths": (
        lambda: ct(sequence(0x00400275, item(implicit(0x00100010, NAME), True), undefined=True)),
        "items",
    ),
    "a sequence that is text": (
        lambda: put(
            in_syntax(ImplicitVRLittleEndian),
            implicit(0x00101001, NAME),
            implicit(0x00101001, NAME) + implicit(0x00101002, f"{ID} {NAME}"),
        ),
        "no-sequence",
    ),
    "a character set that is misspelt": (
        lambda: ct(element(0x00080005, "CS", "ISO-IR 192"), element(0x00081030, "LO", "Thörax".encode())),
        "character-set",
    ),
}
CASES |= {case: make for case, (make, _) in MENDED.items()}


def _raw_header(tag: int, code: bytes, length: str) -> bytes:
    """A private element with its creator, and a header as no standard has it."""
    value = f"{NAME}.".encode()
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + code + struct.pack(length, len(value))
    return element(0x00090010, "LO", "ACME") + head + value


@pytest.mark.parametrize("case", MENDED)
def test_what_is_often_written_wrong_is_mended_and_told(case: str, tmp_path: Path) -> None:
    path, (make, what) = tmp_path / "in.dcm", MENDED[case]
    path.write_bytes(make())
    assert reading.read(path).mended.get(f"mended/{what}"), reading.read(path).mended
    assert f"mended/{what}" in reading.MENDED
    made = published(path, rules())
    assert isinstance(made, bytes), made
    assert told(made) == []
    (tmp_path / "again.dcm").write_bytes(made)
    after = reading.read(tmp_path / "again.dcm")
    assert after.mended == {}
    assert after.PixelData.startswith((bytes(range(7)), item(b"") + b"\xfe\xff\0\xe0"))
    assert after.PatientID == PERSON.pseudonym


def test_the_documentation_lists_what_is_mended() -> None:
    text = (REPO / "docs" / "deidentification.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(mended/[\w-]+)` \| (.+) \|$", text, re.M))
    by_engine = ("mended/behind-pixels", "mended/beside-pixels", "mended/colour-profile")
    assert all(map(listed.pop, by_engine)) and listed == reading.MENDED


REFUSED: dict[str, Callable[[], bytes]] = {
    "an element twice, with two values": CASES["duplicate tags"],
    "text behind the last element": CASES["bytes behind the object"],
    "text behind what was deflated": CASES["deflated, with more behind"],
    "zeros, and text behind them": lambda: ct(tail=bytes(64) + NAME.encode()),
    "fewer fragments than frames": lambda: put(
        encapsulated(_JPEG), CT[0x00280010], element(0x00280008, "IS", "3") + CT[0x00280010]
    ),
    "a length that is readable in two ways": lambda: swapped(
        element(0x00090010, "LO", "ACME"),
        # Sixteen bytes with a long length; none with a short one, and two elements behind it.
        struct.pack("<HH2sH", 0x0009, 0x1001, b"??", 0)
        + element(0x00100000, "UL", bytes(4))
        + element(0x00100002, "LO", ""),
    ),
    "not in order, and a tag that is damaged": lambda: ct(
        element(0x20100030, "DA", "19370419"), tail=element(0x00081030, "LO", "Thorax")
    ),
    "a tag of no group": lambda: ct(tail=element(0x00010010, "LO", NAME)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_be_read_in_two_ways_is_not_mended(case: str) -> None:
    with pytest.raises(Unfit):
        reading.parse(REFUSED[case]())


def test_padding_behind_the_last_pixel_is_cut_off_unless_a_frame_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "in.dcm"
    path.write_bytes(ct(element(0x7FE00010, "OW", bytes(range(8)) + b"QX99")))
    made = published(path, rules())
    assert isinstance(made, bytes), made
    assert pydicom.dcmread(BytesIO(made)).PixelData == bytes(range(8))
    path.write_bytes(ct(element(0x7FE00010, "OW", bytes(range(8)) * 2)))
    assert "longer than its description" in str(published(path, rules()))


@pytest.mark.parametrize("of", ["basic", "research", "pacsifier"])
@pytest.mark.parametrize("case", CASES)
def test_a_hostile_file_is_deidentified_or_refused(case: str, of: str, tmp_path: Path) -> None:
    path = tmp_path / "in.dcm"
    path.write_bytes(CASES[case]())
    made = published(path, rules(of))
    assert isinstance(made, str) or told(made) == []


def test_an_ordinary_file_is_not_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.dcm"
    for case in (
        "as it is",
        "implicit VR",
        "big endian",
        "deflated",
        "nesting 50 deep",
        "preamble",
        "overlays and curves",
        "an icon",
    ):
        path.write_bytes(CASES[case]())
        made = published(path, rules())
        assert isinstance(made, bytes), (case, made)
        assert pydicom.dcmread(BytesIO(made)).PixelData == bytes(range(8))


def test_burned_in_annotation_no_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "in.dcm"
    says_no = element(0x00280301, "CS", "NO")
    suspicious = [
        [element(0x00080016, "UI", SecondaryCaptureImageStorage)],
        [element(0x00080016, "UI", UltrasoundImageStorage), element(0x00080060, "CS", "US")],
        [element(0x00080008, "CS", "DERIVED\\SECONDARY\\SCREEN SAVE")],
        [element(0x0008103E, "LO", "Dose Report")],
    ]
    for elements in suspicious:
        path.write_bytes(ct(says_no, *elements))
        assert judge(reading.read(path), delete_identifiable=True, options=rules().options).kind is not Kind.PASS


# Files at random

SEEDS = [
    ct,
    CASES["implicit VR"],
    CASES["big endian"],
    CASES["deflated"],
    CASES["a sequence in UN"],
    CASES["a character set within an item"],
    *(make for make, _ in MENDED.values()),
]

mutations = st.lists(
    st.tuples(
        st.sampled_from(["set", "flip", "cut", "insert", "copy", "swap", "length", "name"]),
        st.integers(0, 1 << 16),
        st.integers(0, 255),
        st.integers(1, 24),
    ),
    min_size=1,
    max_size=4,
)


def mutated(data: bytes, changes: list[tuple[str, int, int, int]]) -> bytes:
    for kind, at, value, size in changes:
        # The preamble is of no interest, and a cut anywhere is as good as one within the file meta information.
        at = 132 + at % max(1, len(data) - 132)
        match kind:
            case "set":
                data = data[:at] + bytes([value]) + data[at + 1 :]
            case "flip":
                data = data[:at] + bytes(byte ^ 1 << value % 8 for byte in data[at : at + 1]) + data[at + 1 :]
            case "cut":
                data = data[:at] if value < 64 else data[:at] + data[at + size :]
            case "insert":
                data = data[:at] + bytes([value]) * size + data[at:]
            case "copy":
                data = data[:at] + data[at - size : at] + data[at:]
            case "swap":
                data = data[:at] + data[at + size : at + 2 * size] + data[at : at + size] + data[at + 2 * size :]
            case "length":
                data = data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :]
            case "name":
                data = data[:at] + b"Zwetschgenbaum" + data[at + 14 :]
    return data


@given(seed=st.sampled_from(range(len(SEEDS))), changes=mutations, of=st.sampled_from(["basic", "research"]))
@settings(max_examples=600)
def test_a_damaged_file_is_deidentified_or_refused(
    tmp_path_factory: pytest.TempPathFactory, seed: int, changes: list[tuple[str, int, int, int]], of: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "in.dcm"
    path.write_bytes(mutated(_seed(seed), changes))
    made = published(path, rules(of))
    assert isinstance(made, str) or told(made) == []


def test_a_file_cut_off_anywhere_is_refused_or_whole(tmp_path: Path) -> None:
    path, data = tmp_path / "in.dcm", ct()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        made = published(path, rules())
        assert isinstance(made, str) or told(made) == []


@cache
def _seed(number: int) -> bytes:
    return SEEDS[number]()


# Real files

REAL = sorted(
    path for path in (Path(pydicom.__file__).parent / "data").rglob("*") if path.is_file() and path.suffix != ".pyc"
)


def test_every_file_that_comes_with_pydicom_is_deidentified_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes: Counter[str] = Counter()
    for number, source in enumerate(REAL):
        path = tmp_path / str(number) / "in.dcm"
        path.parent.mkdir()
        path.write_bytes(source.read_bytes())
        made = published(path, rules("basic"))
        outcomes["de-identified" if isinstance(made, bytes) else "refused"] += 1
        if isinstance(made, bytes):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                before = pydicom.dcmread(source, force=True)
            after = pydicom.dcmread(path.with_name("out.dcm"))
            pixels = before.get("PixelData")
            if pixels and before["PixelData"].is_undefined_length:
                pixels = remarks.cleaned(Fragments(pixels), int(before.get("NumberOfFrames") or 1))
            assert after.get("PixelData") == pixels, source.name
            assert after.get("PatientID") in (None, PERSON.pseudonym), source.name
    with capsys.disabled():
        print(f"\nfiles of pydicom: {dict(outcomes)}")
    assert outcomes["de-identified"] > 100


def test_offsets_of_frames_follow_fragments_that_become_longer() -> None:
    fragments = [item(b"\xff\xd8" + bytes([size] * size)) for size in (5, 6, 7)]
    where = [0, len(fragments[0]), len(fragments[0] + fragments[1])]

    def read(*offsets: int) -> list[int]:
        data = encapsulated(item(struct.pack(f"<{len(offsets)}L", *offsets)), *fragments, _SEQUENCE_END)
        kept = reading.parse(data).elements[0x7FE00010][1]
        assert isinstance(kept, Fragments)
        (length,) = struct.unpack_from("<L", kept, 4)
        found = [*struct.unpack_from(f"<{length // 4}L", kept, 8)]
        assert all(kept[8 + length + offset :].startswith(fragments[0][:4]) for offset in found)
        return found

    assert read(*where) == read(0, 16, 32) == [0, 16, 32]  # the second one did not count on odd lengths
    assert read(0, 1, 2) == read() == []  # the first one led nowhere
