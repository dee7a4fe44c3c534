"""What compressed pixels and colour profiles hold beside pixels and colours goes; these stay as they were."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageCms
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import get_decoder
from pydicom.sequence import Sequence
from pydicom.uid import UID

from pacsifier_ops.deid import icc, remarks, writing
from pacsifier_ops.deid.identifiers import Identifiers
from pacsifier_ops.deid.verifier import search
from pacsifier_ops.dicom.encoding import Fragments
from tests.deid.test_deid_engine import PERSON, engine, phantom
from tests.support.deid_fragments import FRAGMENTS

NAME = b"Zwetschgenbaum^Notburga"
FILES = Path(pydicom.__file__).parent / "data"
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
CRAYONS = (FILES / "test_files/crayons.icc").read_bytes()


def jpeg(**how: object) -> bytes:
    shown = np.add.outer(np.arange(16), np.arange(16)).astype("u1") * 7
    stream = BytesIO()
    Image.fromarray(np.stack([shown, shown[::-1], 255 - shown], -1)).save(stream, "JPEG", **how)
    return stream.getvalue()


def photographed() -> Image.Exif:
    made = Image.Exif()
    made[0x010E] = NAME.decode()  # ImageDescription
    return made


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def behind_soi(added: bytes, stream: bytes = b"") -> bytes:
    stream = stream or jpeg()
    return stream[:2] + added + stream[2:]


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">L", len(content) + 8) + kind + content


def coded() -> bytes:
    """A code stream of JPEG 2000."""
    stream = FRAGMENTS["1.2.840.10008.1.2.4.90"][1]
    return stream[: stream.rindex(b"\xff\xd9") + 2]


def in_main_header(added: bytes) -> bytes:
    at = coded().index(b"\xff\x52")
    return coded()[:at] + added + coded()[at:]


def in_tile_header(added: bytes) -> bytes:
    stream = coded()
    at, tile = stream.index(b"\xff\x93"), stream.index(b"\xff\x90")
    (length,) = struct.unpack_from(">L", stream, tile + 6)
    longer = struct.pack(">L", length + len(added))
    return stream[: tile + 6] + longer + stream[tile + 10 : at] + added + stream[at:]


def jp2(*added: bytes) -> bytes:
    header = box(b"ihdr", struct.pack(">LLHBBBB", 16, 16, 1, 11, 7, 0, 0)) + box(b"colr", b"\1\0\0" + b"\0\0\0\x11")
    begin = b"\0\0\0\x0cjP  \r\n\x87\n" + box(b"ftyp", b"jp2 \0\0\0\0jp2 ") + box(b"jp2h", header)
    return begin + b"".join(added) + box(b"jp2c", coded())


def between_scans(added: bytes) -> bytes:
    stream = jpeg(progressive=True)
    second = stream.index(b"\xff\xda", stream.index(b"\xff\xda") + 2)
    return stream[:second] + added + stream[second:]


BASELINE, LS, J2K = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"
#: Where somebody has found text in such streams: transfer syntax, and the stream.
PLANTED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a comment": (BASELINE, lambda: behind_soi(segment(0xFE, NAME))),
    "a comment between scans": (BASELINE, lambda: between_scans(segment(0xFE, NAME))),
    "Exif": (BASELINE, lambda: jpeg(exif=photographed())),
    "XMP": (BASELINE, lambda: behind_soi(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x>" + NAME))),
    "Photoshop": (BASELINE, lambda: behind_soi(segment(0xED, b"Photoshop 3.0\08BIM" + NAME))),
    "a colour profile": (BASELINE, lambda: jpeg(icc_profile=worded(CRAYONS))),
    "a colour profile that is none": (BASELINE, lambda: behind_soi(segment(0xE2, b"ICC_PROFILE\0\1\1" + NAME))),
    "a preview": (BASELINE, lambda: behind_soi(segment(0xE0, b"JFXX\0\x10" + NAME))),
    "a preview of JFIF": (
        BASELINE,
        lambda: behind_soi(segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\4\2" + NAME + b"\0"), b"\xff\xd8" + jpeg()[20:]),
    ),
    "behind Adobe": (BASELINE, lambda: behind_soi(segment(0xEE, b"Adobe\0d\0\0\0\0\1" + NAME))),
    "bytes behind the end": (BASELINE, lambda: jpeg() + NAME),
    "another end behind the end": (BASELINE, lambda: jpeg() + NAME + b"\xff\xd9"),
    "another image behind the end": (BASELINE, lambda: jpeg() + behind_soi(segment(0xFE, NAME))),
    "a comment of JPEG-LS": (LS, lambda: behind_soi(segment(0xFE, NAME), FRAGMENTS[LS][1])),
    "data of JPEG-LS": (LS, lambda: behind_soi(segment(0xE8, NAME), FRAGMENTS[LS][1])),
    "a comment of JPEG 2000": (J2K, lambda: in_main_header(segment(0x64, b"\0\1" + NAME))),
    "a comment of a tile": (J2K, lambda: in_tile_header(segment(0x64, b"\0\1" + NAME))),
    "bytes behind JPEG 2000": (J2K, lambda: coded() + NAME),
    "XML of JP2": (J2K, lambda: jp2(box(b"xml ", b"<name>" + NAME + b"</name>"))),
    "UUID of JP2": (J2K, lambda: jp2(box(b"uuid", bytes(16) + NAME))),
    "a box behind JP2": (J2K, lambda: jp2() + box(b"uuid", bytes(16) + NAME)),
}


def worded(profile: bytes, word: bytes = NAME) -> bytes:
    """A colour profile with tags that name somebody: text, description, and one that nobody knows."""
    (count,) = struct.unpack_from(">L", profile, 128)
    more = {b"dmnd": b"desc\0\0\0\0" + struct.pack(">L", len(word)) + word, b"SCAN": b"text\0\0\0\0" + word}
    moved, table = 12 * len(more), profile[132 : 132 + 12 * count]
    entries = [struct.unpack_from(">4sLL", table, 12 * number) for number in range(count)]
    body = profile[132 + 12 * count :]
    place = 132 + 12 * (count + len(more)) + len(body)
    added = []
    for name, content in more.items():
        added.append((name, place, len(content)))
        body, place = body + content, place + len(content)
    every = [(name, start + moved, length) for name, start, length in entries] + added
    head = struct.pack(">L", place) + profile[4:128] + struct.pack(">L", len(every))
    return head + b"".join(struct.pack(">4sLL", *entry) for entry in every) + body


def image(syntax: str, frames: list[bytes], fragments: int = 1) -> Dataset:
    made = phantom()
    made.file_meta.TransferSyntaxUID = UID(syntax)
    made.SamplesPerPixel, made.Rows, made.Columns, made.NumberOfFrames = 1, 16, 16, len(frames)
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    if syntax == BASELINE:
        made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "YBR_FULL_422", 0
        made.BitsAllocated = made.BitsStored = 8
        made.HighBit = 7
    made.PixelData = encapsulate(frames, fragments_per_frame=fragments)
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    return made


def frames(ds: Dataset) -> list[bytes]:
    return list(generate_frames(ds.PixelData, number_of_frames=ds.NumberOfFrames))


def decoded(ds: Dataset) -> list[np.ndarray]:
    """The pixels, by each decoder that is there."""
    decoder = get_decoder(ds.file_meta.TransferSyntaxUID)
    return [decoder.as_array(ds, raw=True, decoding_plugin=one)[0] for one in decoder.available_plugins]


@pytest.mark.parametrize("title", PLANTED)
def test_what_is_no_pixels_becomes_zeros(title: str, tmp_path: Path) -> None:
    syntax, stream = PLANTED[title]
    source = image(syntax, [stream(), stream()])
    assert NAME in source.PixelData
    made = engine().deidentify(source, PERSON)
    assert NAME not in made.dataset.PixelData and len(made.dataset.PixelData) == len(source.PixelData)
    assert made.counts["mended/beside-pixels"] == 1
    named = phantom()
    named.PatientName = NAME.decode()
    writing.write(made.dataset, tmp_path / "out.dcm")
    assert search(tmp_path / "out.dcm", Identifiers.of(named, PERSON)) == []
    if "another image" not in title and "JP2" not in title:  # which decoders of DICOM refuse as they are
        assert all(map(np.array_equal, decoded(source), decoded(made.dataset)))
    if syntax != LS:
        for before, after in zip(frames(source), frames(made.dataset), strict=True):
            assert np.array_equal(np.asarray(Image.open(BytesIO(before))), np.asarray(Image.open(BytesIO(after))))


@pytest.mark.parametrize("syntax", FRAGMENTS)
def test_what_is_nothing_but_pixels_stays_the_same_object(syntax: str) -> None:
    value = Fragments(encapsulate([FRAGMENTS[syntax][1].rstrip(b"\0") + bytes(1)] * 2))
    once = remarks.cleaned(value, 2)
    assert remarks.cleaned(once, 2) is once


@pytest.mark.parametrize("fragments", [2, 3, 7, 40])
def test_a_frame_in_several_fragments(fragments: int) -> None:
    """A comment lies across them, and what follows the end in some of its own."""
    stream = behind_soi(segment(0xFE, NAME * 40)) + NAME * 10
    source = image(BASELINE, [stream + bytes(len(stream) % 2)], fragments)
    made = engine().deidentify(source, PERSON).dataset
    left = frames(made)[0]
    assert len(left) == len(frames(source)[0]) and NAME[:5] not in left and NAME[-5:] not in left
    assert all(map(np.array_equal, decoded(source), decoded(made)))


def test_pixels_within_an_item() -> None:
    source, icon = image(BASELINE, [jpeg()]), image(BASELINE, [behind_soi(segment(0xFE, NAME))])
    del icon.NumberOfFrames
    source.OpticalPathSequence = Sequence([icon])
    made = engine().deidentify(source, PERSON).dataset
    assert NAME in icon.PixelData and NAME not in made.OpticalPathSequence[0].PixelData


def test_several_frames_in_a_fragment_stay() -> None:
    """Where there are fewer fragments than frames, what follows an end may be the next frame."""
    value = Fragments(encapsulate([jpeg() * 2]))
    assert remarks.cleaned(value, 2) is value


@pytest.mark.parametrize("damage", range(64))
def test_a_damaged_stream_never_grows_nor_loses_another_frame(damage: int) -> None:
    chance, (_, planted) = np.random.default_rng(damage), list(PLANTED.values())[damage % len(PLANTED)]
    stream = bytearray(planted())
    for at in chance.integers(4, len(stream), 8):
        stream[at] = chance.integers(256)
    cut = bytes(stream[: chance.integers(4, len(stream))])
    source = Fragments(encapsulate([cut, jpeg(), bytes(stream)]))
    made = remarks.cleaned(source, 3)
    assert len(made) == len(source) and list(generate_frames(made, number_of_frames=3))[1].startswith(jpeg())


def pydicom_files() -> Iterator[tuple[Path, Dataset]]:
    for path in sorted(FILES.rglob("*.dcm")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds = dcmread(path, force=True)
        syntax = ds.get("file_meta", Dataset()).get("TransferSyntaxUID")
        if syntax and syntax.is_encapsulated and "PixelData" in ds:
            yield path, ds


def test_files_of_pydicom_are_decoded_to_the_same_pixels() -> None:
    compared = 0
    for path, ds in pydicom_files():
        count = int(ds.get("NumberOfFrames") or 1)
        value = ds.PixelData
        ds.PixelData = bytes(remarks.cleaned(Fragments(value), count))
        assert len(ds.PixelData) == len(value), path.name
        if ds.PixelData != value:
            after, ds.PixelData = ds.PixelData, value
            try:
                before = decoded(ds)
            except Exception:
                continue  # no decoder reads it
            ds.PixelData = after
            assert all(map(np.array_equal, before, decoded(ds))), path.name
            compared += 1
    assert compared > 5


# Colour profiles


def transformed(profile: bytes) -> list[np.ndarray]:
    """A square of colours, seen by a profile and shown by it."""
    own, standard = ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB")
    square = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8))
    found = []
    for one, other in ((own, standard), (standard, own)):
        for intent in ImageCms.Intent:
            transform = ImageCms.buildTransform(one, other, "RGB", "RGB", intent)
            found.append(np.asarray(ImageCms.applyTransform(square, transform)))
    return found


@pytest.mark.parametrize("profile", [SRGB, CRAYONS, worded(SRGB), worded(CRAYONS) + b"\0"])
def test_a_colour_profile_keeps_its_colours_and_no_words(profile: bytes) -> None:
    made = icc.cleaned(profile)
    assert made and len(made) == len(profile) and icc.cleaned(made) == made
    for word in (NAME, "Crayon".encode("utf-16-be"), b"lcms", b"dmnd", b"SCAN"):
        assert word not in made
    assert made[24:36] == bytes(12) and made[80:128] == bytes(48)
    assert all(map(np.array_equal, transformed(profile), transformed(made)))


@pytest.mark.parametrize(
    "profile",
    [
        b"ICC desc " + NAME,
        bytes(36) + b"acsp" + NAME * 10,
        SRGB[:200],
        SRGB[:132] + SRGB[144:],
        SRGB[:128] + b"\xff\xff\xff\xff" + SRGB[132:],
    ],
)
def test_what_is_no_colour_profile_is_left_out(profile: bytes) -> None:
    assert icc.cleaned(profile) is None
    source = image(BASELINE, [jpeg()])
    source.OpticalPathSequence = Sequence([Dataset()])
    source.OpticalPathSequence[0].ICCProfile = profile
    source.OpticalPathSequence[0].OpticalPathIdentifier = "1"
    made = engine().deidentify(source, PERSON)
    assert "ICCProfile" not in made.dataset.OpticalPathSequence[0]
    source.OpticalPathSequence[0].ICCProfile = worded(SRGB)
    made = engine().deidentify(source, PERSON)
    assert made.dataset.OpticalPathSequence[0].ICCProfile.startswith(icc.cleaned(worded(SRGB)))
    assert made.counts["mended/colour-profile"] == 1
