"""DICOM files as they lie on a disk: told from others, identified, and found truncated."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.filereader import data_element_generator
from pydicom.filewriter import write_file_meta_info
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from pacsifier_ops.dicom.files import DicomFile, Directory, check_whole, inspect
from pacsifier_ops.embedded.phantoms import phantom_series
from tests.support.shipped import SHIPPED, inspected

SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
)


def image(syntax: str = ExplicitVRLittleEndian, **attributes: Any) -> Dataset:
    """A small image with nested sequences of defined and undefined length, and private elements."""
    stored = RLELossless if syntax == RLELossless else ExplicitVRLittleEndian
    (made,) = phantom_series(
        patient_id="P",
        patient_name="Doe^Jane",
        n_images=1,
        rows=4,
        columns=4,
        charset="ISO_IR 100",
        SeriesDescription="Schädel",
        transfer_syntax=stored,
        **attributes,
    )
    inner, outer = Dataset(), Dataset()
    inner.CodeValue = "1"
    inner.is_undefined_length_sequence_item = True
    outer.add_new("ProcedureCodeSequence", "SQ", Sequence([inner, inner]))
    outer["ProcedureCodeSequence"].is_undefined_length = True
    made.add_new("ReferencedStudySequence", "SQ", Sequence([outer]))
    made.add_new("ReferencedSeriesSequence", "SQ", Sequence([outer, outer]))
    made["ReferencedSeriesSequence"].is_undefined_length = True
    block = made.private_block(0x0029, "PHANTOM", create=True)
    block.add_new(0x10, "OB", b"\1\2\3\4")
    block.add_new(0x11, "UN", b"\5\6")
    made.file_meta.TransferSyntaxUID = syntax
    return made


@cache
def encoded(syntax: str = ExplicitVRLittleEndian, meta: bool = True) -> bytes:
    """The file of `image`; without preamble and File Meta Information where `meta` says so."""
    made, stream = image(syntax), BytesIO()
    dcmwrite(stream, made, enforce_file_format=True)
    data = stream.getvalue()
    if meta:
        return data
    head = BytesIO()
    write_file_meta_info(head, dcmread(BytesIO(data), stop_before_pixels=True).file_meta)
    return data[132 + len(head.getvalue()) :]


def written(folder: Path, data: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(data)
    return path


def whole(path: Path) -> DicomFile | None:
    """The file where it is DICOM and whole, by both functions; None where it is not DICOM."""
    file = inspect(path)
    if file is not None:
        check_whole(file)
    return file


def boundaries(syntax: str, meta: bool) -> set[int]:
    """Where the file of `encoded` may end with nothing amiss: between two elements of the top level."""
    data, body = encoded(syntax, meta), encoded(syntax, meta=False)
    if syntax == DeflatedExplicitVRLittleEndian:
        return {len(data) - 1, len(data)}  # the last byte may be a padding one (PS3.5 A.5)
    stream = BytesIO(data)
    stream.seek(len(data) - len(body))
    elements = data_element_generator(stream, syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian)
    return {stream.tell() for _ in elements}


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_syntax(tmp_path: Path, syntax: str) -> None:
    path = written(tmp_path, encoded(syntax))
    file, head = whole(path), dcmread(path)
    assert file is not None
    assert (file.transfer_syntax_uid, file.sop_class_uid) == (syntax, head.SOPClassUID)
    assert (file.sop_instance_uid, file.study_uid) == (head.SOPInstanceUID, head.StudyInstanceUID)
    assert (file.series_uid, file.modality, file.series_number) == (head.SeriesInstanceUID, "CT", "1")
    assert file.description == "Schädel"
    status = path.stat()
    assert (file.size, file.mtime_ns, file.ctime_ns) == (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    assert encoded(syntax)[file.offset :] == encoded(syntax, meta=False)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_without_preamble_and_meta(tmp_path: Path, syntax: str) -> None:
    file = whole(written(tmp_path, encoded(syntax, meta=False)))
    assert file is not None and (file.offset, file.transfer_syntax_uid) == (0, syntax)


def test_meta_without_preamble_and_preamble_without_meta(tmp_path: Path) -> None:
    file = whole(written(tmp_path, encoded()[132:]))
    assert file is not None and encoded()[132:][file.offset :] == encoded(meta=False)
    file = whole(written(tmp_path, encoded()[:132] + encoded(meta=False)))
    assert file is not None and (file.offset, file.transfer_syntax_uid) == (132, ExplicitVRLittleEndian)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08",
        b"PatientID,StudyDate\nP,20200101\n" * 20,
        b"\0" * 200,
        b"\x7fELF" + bytes(range(256)),
        b"\x08\x00\x05\x00 by chance, \x08\x00",
        b"\x89PNG\r\n\x1a\n" + b"\0" * 124 + b"DIC",
    ],
)
def test_what_is_not_dicom(tmp_path: Path, data: bytes) -> None:
    assert inspect(written(tmp_path, data)) is None


@pytest.mark.parametrize("path", [p for p in SHIPPED if "DICOMDIR" in p.name and p.suffix in ("", ".dcm")], ids=str)
def test_a_dicomdir_is_told_apart(path: Path) -> None:
    if path.is_file():
        with pytest.raises(Directory):
            inspect(path)


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("value", ["", "1.2.abc", None])
def test_a_uid_that_is_missing_or_malformed_is_named(tmp_path: Path, keyword: str, value: str | None) -> None:
    made = image()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        setattr(made, keyword, value)
        if value is None:
            delattr(made, keyword)
        stream = BytesIO()
        dcmwrite(stream, made, enforce_file_format=False)
    data = b"\0" * 128 + b"DICM" + stream.getvalue()
    words = keyword.replace("UID", " UID").replace("Class", " Class").replace("Instance", " Instance")
    with pytest.raises(ValueError, match=words) as caught:
        inspect(written(tmp_path, data))
    assert "abc" not in str(caught.value)


def test_an_encoding_other_than_announced_is_found_out(tmp_path: Path) -> None:
    explicit, implicit = encoded(), encoded(ImplicitVRLittleEndian, meta=False)
    head = explicit[: -len(encoded(meta=False))]
    with pytest.raises(ValueError, match="not encoded as its Transfer Syntax UID says"):
        whole(written(tmp_path, head + implicit))


@pytest.mark.parametrize("again", [b"", b"1" * 5000], ids=["empty", "long"])
def test_an_element_that_is_repeated_without_a_value_keeps_the_first(again: bytes, tmp_path: Path) -> None:
    data = encoded()
    first = data.index(b"\x20\0\x0d\0UI")
    repeated = struct.pack("<HH2sH", 0x0008, 0x0018, b"UI", len(again)) + again
    file, expected = inspect(written(tmp_path, data[:first] + repeated + data[first:])), image()
    assert file is not None and file.sop_instance_uid == dcmread(BytesIO(data)).SOPInstanceUID
    assert file.study_uid == expected.StudyInstanceUID


def test_bytes_after_the_last_element_are_found_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        whole(written(tmp_path, encoded() + b"\0" * 512))


def test_a_changed_file_is_found_out(tmp_path: Path) -> None:
    file = inspect(written(tmp_path, encoded()))
    os.utime(tmp_path / "file", ns=(1, 1))
    assert file is not None
    with pytest.raises(ValueError, match="changed while"):
        check_whole(file)


def test_a_file_whose_inode_alone_changed_is_as_it_was(tmp_path: Path) -> None:
    path = written(tmp_path, encoded())
    file = inspect(path)
    path.chmod(0o600)
    path.chmod(0o644)
    assert file is not None
    check_whole(file)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        inspect(tmp_path / "none")
    with pytest.raises(OSError):
        inspect(tmp_path)


def test_large_pixel_data_are_stepped_over(tmp_path: Path) -> None:
    """A sparse file of 3 GiB; nobody reads what is in it."""
    data = encoded(meta=False)
    start = data.rindex(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW"))
    path = written(tmp_path, data[:start] + struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, 3 << 30))
    os.truncate(path, start + 12 + (3 << 30))
    assert whole(path) is not None
    os.truncate(path, start + 11 + (3 << 30))
    with pytest.raises(ValueError, match="truncated"):
        whole(path)


def deflated(size: int, fill: bytes, level: int) -> tuple[bytes, int]:
    """A file with a deflated data set that is `size` bytes long once inflated, and where the data set begins."""
    data, body = encoded(DeflatedExplicitVRLittleEndian), encoded(meta=False)
    offset = len(data) - len(encoded(DeflatedExplicitVRLittleEndian, meta=False))
    body += struct.pack("<HH2sHL", 0xFFFC, 0xFFFC, b"OB", 0, size - len(body) - 12)
    packer = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    # A block of its own for the filling has few symbols and a short end: the inflater has then read all of it while
    # the last bytes are yet to come out.
    packed = packer.compress(body) + packer.flush(zlib.Z_FULL_FLUSH)
    packed += packer.compress((fill * size)[: size - len(body)]) + packer.flush()
    return data[:offset] + packed + b"\0" * (len(packed) % 2), offset


@given(
    pieces=st.integers(1, 5),
    beyond=st.integers(-300, 600),
    fill=st.sampled_from([b"\0", b"ab", b"\0\1\2\3"]),
    level=st.sampled_from([1, 6, 9]),
    cut=st.integers(2, 40),
)
def test_deflated_files_of_any_size_are_whole_and_their_parts_are_not(
    tmp_path_factory: pytest.TempPathFactory, pieces: int, beyond: int, fill: bytes, level: int, cut: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    data, offset = deflated(pieces * 65536 + beyond, fill, level)
    assert whole(written(folder, data)) is not None
    assert offset < len(data) - cut
    with pytest.raises(ValueError, match="truncated"):
        whole(written(folder, data[:-cut]))


@pytest.mark.parametrize("pieces", [1, 2, 3, 8])
def test_deflated_files_that_end_just_behind_a_piece_are_whole(tmp_path: Path, pieces: int) -> None:
    for beyond in range(0, 600, 2):
        assert whole(written(tmp_path, deflated(pieces * 65536 + beyond, b"\0", 6)[0])) is not None, beyond


def test_sequences_nested_deeply_do_not_exhaust_the_stack(tmp_path: Path) -> None:
    data = encoded(ImplicitVRLittleEndian, meta=False)
    nest = struct.pack("<HHLHHL", 0x0040, 0xA730, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    tail = struct.pack("<HHL", 0xFFFC, 0xFFFC, 0)
    assert whole(written(tmp_path, data + nest * 50_000 + end * 50_000 + tail)) is not None
    with pytest.raises(ValueError, match="truncated"):
        whole(written(tmp_path, data + nest * 50_000 + end * 49_999))


def test_shipped_files_are_read_as_pydicom_reads_them() -> None:
    seen = 0
    for file in inspected():
        path = file.path
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            head = dcmread(path, stop_before_pixels=True, force=True)
            assert (file.sop_instance_uid, file.series_uid) == (head.SOPInstanceUID, head.SeriesInstanceUID)
            assert file.description == str(head.get("SeriesDescription") or "")
            assert file.transfer_syntax_uid == head.file_meta.get("TransferSyntaxUID", file.transfer_syntax_uid)
        if "truncated" in path.name:
            with pytest.raises(ValueError, match="truncated"):
                check_whole(file)
        else:
            check_whole(file)
        seen += 1
    assert seen > 100


# Nothing names the transfer syntax of compressed or deflated data sets but the File Meta Information.
FORMS = [(syntax, True) for syntax in SYNTAXES] + [(syntax, False) for syntax in SYNTAXES[:3]]


@given(data=st.data(), form=st.sampled_from(FORMS))
def test_a_file_cut_anywhere_is_never_taken_for_whole(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, form: tuple[str, bool]
) -> None:
    original = encoded(*form)
    cut = data.draw(st.integers(0, len(original)))
    path = written(tmp_path_factory.getbasetemp(), original[:cut])
    try:
        file = whole(path)
    except ValueError:
        return
    assert file is None or cut in boundaries(*form), cut


@given(data=st.data(), form=st.sampled_from(FORMS))
def test_damage_anywhere_ends_in_an_answer_or_a_reason(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, form: tuple[str, bool]
) -> None:
    damaged = bytearray(encoded(*form))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        whole(written(tmp_path_factory.getbasetemp(), bytes(damaged)))
    except ValueError as error:
        assert str(error)


@given(junk=st.binary(max_size=300))
def test_anything_ends_in_an_answer_or_a_reason(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    for data in (junk, b"\0" * 128 + b"DICM" + junk, b"\x08\0\x05\0" + junk, b"\x02\0\0\0UL\4\0" + junk):
        try:
            whole(written(tmp_path_factory.getbasetemp(), data))
        except ValueError as error:
            assert str(error)
