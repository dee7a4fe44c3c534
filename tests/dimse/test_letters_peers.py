"""Names in many character sets, rightly and wrongly declared, at archives that each do something else to letters.

A row by such a name finds the patient or is undecidable. It is never empty, and never finds somebody else.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from pacsifier_ops.embedded.phantoms import phantom_series, write
from tests.support.command import extract, series_of_lines, write_table
from tests.support.peers import Dcmqrscp, Orthanc, Peer, Qrscp

pytestmark = pytest.mark.peers


@dataclass(frozen=True)
class Name:
    """A patient's name, as it is stored.

    Attributes:
        charset: Specific Character Set; empty: none is given.
        written: encoding of its bytes where that is another one.
        typed: how people ask for it.
    """

    name: str
    charset: str | list[str] = ""
    written: str = ""
    typed: tuple[str, ...] = field(default=())

    @property
    def asked(self) -> list[str]:
        plain = "".join(c for c in unicodedata.normalize("NFD", self.name) if not unicodedata.combining(c))
        return list(dict.fromkeys((*self.typed, self.name, *([plain] if plain.isascii() else []))))


NAMES = [
    Name("Żółć^Łukasz", "ISO_IR 192", typed=("Zolc", "zolc lukasz")),
    Name("Dvořák^Jiří", "ISO_IR 101", typed=("Dvorak",)),
    Name("Erdős^Pál", "ISO_IR 192", typed=("Erdos",)),
    Name("Müller^Jörg", "ISO_IR 100", typed=("Muller",)),
    Name("Yıldız^Şükrü", "ISO_IR 148", typed=("Yildiz",)),
    Name("Иванов^Иван", "ISO_IR 144", typed=("иванов",)),
    Name("Wang^XiaoDong=王^小东", "GB18030", typed=("Wang XiaoDong", "王^小东")),
    Name("Yamada^Tarou=山田^太郎=やまだ^たろう", ["", "ISO 2022 IR 87"], typed=("山田 太郎", "Yamada")),
    Name("Петров^Пётр", "", "cp1251", ("Петров",)),
    Name("Сидоров^Пётр", "ISO_IR 100", "cp1251"),
    Name("Schäfer^Undeclared", "", "latin_1", ("Schafer",)),
    Name("Böhm^Utf", "", "utf_8", ("Bohm",)),
    Name("Krüger^Wrong", "ISO_IR 100", "utf_8", ("Kruger",)),
    Name("Köhler^Misspelt", "ISO_IR_192", "utf_8"),
    Name("Żak^Blank", "ISO IR 192", "utf_8"),
    Name("王^小明", "", "gbk", ("小明 王",)),
    Name("Παπάς^Γιάννης", "", "iso8859_7", ("παπας",)),
    Name("佐藤^花子", "", "shift_jis", ("佐藤",)),
    Name("Žižka^Jan", "ISO_IR 100", "cp1252", ("Zizka",)),
]
#: Nobody has these.
NOBODY = ["Nobody", "Muller Anna", "Smith", "Müller^Hans", "Beth*"]


def stored(folder: Path) -> list[Path]:
    """One study for each name, PatientID after its place in the list."""
    paths = []
    for number, name in enumerate(NAMES):
        (image,) = phantom_series(patient_id=f"N{number}", patient_name="X", rows=8, columns=8, n_images=1)
        image.SpecificCharacterSet = name.charset
        if not name.charset:
            del image.SpecificCharacterSet
        if name.written:
            raw = name.name.encode(name.written)
            raw += b" " * (len(raw) % 2)
            image[0x00100010] = RawDataElement(Tag(0x00100010), "PN", len(raw), raw, 0, False, True)
        else:
            image.PatientName = name.name
        paths += write([image], folder / str(number))
    return paths


PEERS: dict[str, Callable[[Path], Peer]] = {
    "orthanc": lambda folder: Orthanc(folder),
    "orthanc-utf8": lambda folder: Orthanc(folder, options={"DefaultEncoding": "Utf8"}),
    "dcmqrscp": lambda folder: Dcmqrscp(folder),
    "qrscp": lambda folder: Qrscp(folder),
}
#: They answer in UTF-8.
WHOLE = ("orthanc-utf8", "dcmqrscp")


@pytest.fixture(scope="module", params=PEERS)
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    peer = PEERS[request.param](tmp_path_factory.mktemp(request.param))
    peer.load(stored(tmp_path_factory.mktemp("names")))
    assert not peer.refused
    yield peer
    peer.stop()


def lost_by(peer: Peer, typed: str, name: Name) -> bool:
    """Whether the archive lost letters itself, when it stored the object, so that nothing of them is left to see.

    Orthanc does where the set's name is misspelt, and where no set is named and the bytes are not in its own.
    """
    if not isinstance(peer, Orthanc):
        return False
    own = "utf_8" if peer.options else "latin_1"
    misspelt = bool(name.written) and name.charset not in ("", "ISO_IR 100") and typed.isascii()
    return misspelt or (own == "utf_8" and not name.charset and name.written not in ("", own))


def test_a_row_finds_its_patient_or_is_undecidable(
    peer: Peer, request: pytest.FixtureRequest, tmp_path: Path, state_root: Path
) -> None:
    asked: list[tuple[str, int | None]] = []
    asked += [(typed, number) for number, name in enumerate(NAMES) for typed in name.asked]
    asked += [(typed, None) for typed in NOBODY]
    rows = [{"PatientName": typed, "StudyDate": "20000101-"} for typed, _ in asked]
    extract(peer.config(tmp_path), write_table(tmp_path / "table.csv", rows), tmp_path / "out", "--info").ended(3)
    accounts, found = series_of_lines(state_root)
    of_patient = series_of_patients(peer)
    whole = request.node.callspec.params["peer"] in WHOLE
    wrong = []
    for line, (typed, number) in enumerate(asked, start=2):
        state, wanted = accounts[line]["state"], {of_patient[f"N{number}"]} if number is not None else set()
        right = found[line] == wanted and state == ("found" if wanted else "empty")
        told = state == "undecidable" and "lost letters" in accounts[line]["reason"] and found[line] <= wanted
        unseen = number is not None and state == "empty" and lost_by(peer, typed, NAMES[number])
        # Names in the set that they are declared in come whole from those that answer in UTF-8.
        plain = number is None or not NAMES[number].written
        if not (right or unseen or (told and not (whole and plain))):
            wrong.append(f"{typed}: {state}, {len(found[line])} series; {accounts[line]['reason']}")
    assert not wrong, "\n".join(wrong)


def series_of_patients(peer: Peer) -> dict[str, str]:
    """The Series Instance UID of each patient, from what was stored."""
    heads = (dcmread(path, specific_tags=["PatientID", "SeriesInstanceUID"]) for path in peer.held)
    return {str(head.PatientID): str(head.SeriesInstanceUID) for head in heads}
