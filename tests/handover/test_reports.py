"""Reports: texts of structured reports of any template, and documents; against PACSIFIER, and killed."""

from __future__ import annotations

import csv
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from pacsifier_ops.base.errors import InputError, TreeError
from pacsifier_ops.cli.anonymize import main as anonymize
from pacsifier_ops.cli.extract_reports import main
from pacsifier_ops.dicom.scan import scan
from pacsifier_ops.embedded.phantoms import uid, write
from pacsifier_ops.handover import reports
from pacsifier_ops.handover.account import ToolAccount
from pacsifier_ops.handover.sr_text import narrative_of, plain, repaired
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.tree import CONTROL, CONVERTING, DEIDENTIFIED, IDENTIFIED, write_marker
from tests.support import old_pacsifier
from tests.support.embedded import extract, node_of, series, serving
from tests.support.kills import killed
from tests.support.tables import parquet_as_csv

BASIC_TEXT, COMPREHENSIVE, DOSE = (f"1.2.840.10008.5.1.4.1.1.88.{number}" for number in (11, 33, 67))
PDF, CDA = "1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.10008.5.1.4.1.1.104.2"


def code(meaning: str, value: str = "T-1", scheme: str = "99TEST") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def content(kind: str, name: str = "", *below: Dataset, relation: str = "CONTAINS", **values: Any) -> Dataset:
    """A content item."""
    item = Dataset()
    item.RelationshipType, item.ValueType = relation, kind
    if name:
        item.ConceptNameCodeSequence = [code(name)]
    for keyword, value in values.items():
        setattr(item, keyword, value)
    if below:
        item.ContentSequence = list(below)
    return item


def text(name: str, value: str, *below: Dataset, **values: Any) -> Dataset:
    return content("TEXT", name, *below, TextValue=value, **values)


def number(name: str, value: str, unit: str, meaning: str = "") -> Dataset:
    measured = Dataset()
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = value, [code(meaning or unit, unit, "UCUM")]
    return content("NUM", name, MeasuredValueSequence=[measured])


def image() -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "2.25.77"
    return content("IMAGE", ReferencedSOPSequence=[reference])


LANGUAGE = content("CODE", relation="HAS CONCEPT MOD", ConceptCodeSequence=[code("French", "fr", "RFC5646")])
LANGUAGE.ConceptNameCodeSequence = [code("Language of Content Item", "121049", "DCM")]
CONTEXT = (
    LANGUAGE,
    content("CODE", "Observer Type", relation="HAS OBS CONTEXT", ConceptCodeSequence=[code("Person")]),
    content("PNAME", "Person Observer Name", relation="HAS OBS CONTEXT", PersonName="Zwetschge^Notburga^^Dr."),
)


def carestream(value: str) -> tuple[Dataset, ...]:
    """The content of a report as Carestream's archive writes it."""
    return (*CONTEXT, content("CONTAINER", "Findings", text("Finding", value)))


def thoracic() -> tuple[Dataset, ...]:
    """The content of a report of another template, with all kinds of values and several levels."""
    return (
        *CONTEXT,
        content("DATETIME", "Time of Report", DateTime="20180102101500.12+0100"),
        content(
            "CONTAINER",
            "Findings",
            text("Finding", "Two nodules.", image()),
            content(
                "CONTAINER",
                "Left lung",
                number("Diameter", "5.2", "mm"),
                number("Count", "2", "1", "no units"),
                number("Ratio", "3", "{ratio}", "to one"),
                content("CODE", "Site", ConceptCodeSequence=[code("Upper lobe")]),
                text("Comment", "Not seen before.\r\nTo be watched."),
                content("DATE", "Compared with", Date="20170203"),
                content("TIME", "Seen at", Time="0708"),
                content("UIDREF", "Series", UID="1.2.3.4"),
            ),
        ),
        content("CONTAINER", "Impressions", text("Impression", "a < b, and <i>benign</i>")),
    )


THORACIC = """\
CT report
Observer Type: Person
Person Observer Name: Dr. Notburga Zwetschge
Time of Report: 2018-01-02 10:15:00 +0100

Findings
  Two nodules.
    see image
  Left lung
    Diameter: 5.2 mm
    Count: 2
    Ratio: 3 to one
    Site: Upper lobe
    Comment:
      Not seen before.
      To be watched.
    Compared with: 2017-02-03
    Seen at: 07:08

Impressions
  a < b, and benign"""


def report(
    number: int, *below: Dataset, kind: str = BASIC_TEXT, charset: str | list[str] = "ISO_IR 192", **values: Any
) -> Dataset:
    """A structured report, or with `kind` an object of another class, of one patient."""
    made = content("CONTAINER", "CT report", *below)
    del made.RelationshipType
    made.ConceptNameCodeSequence = [code("CT report", "18748-4", "LN")]
    made.SpecificCharacterSet = charset
    made.SOPClassUID, made.SOPInstanceUID = kind, uid("report", number)
    made.PatientID, made.PatientName, made.PatientBirthDate = "R1", "Report^Patient", "19700101"
    made.StudyInstanceUID, made.SeriesInstanceUID = uid("report study"), uid("report series", number)
    made.StudyDate, made.StudyTime, made.AccessionNumber = "20180102", "101500", ""
    made.SeriesDescription, made.SeriesNumber, made.Modality = "CarestreamPACSReports", number, "SR"
    for keyword, value in values.items():
        setattr(made, keyword, value)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return made


def document(number: int, data: bytes, kind: str = PDF, **values: Any) -> Dataset:
    made = report(number, kind=kind, EncapsulatedDocument=data + b"\0" * (len(data) % 2), Modality="DOC", **values)
    del made.ValueType, made.ConceptNameCodeSequence
    return made


def take_out(folder: Path, out: Path | None = None, **request: Any) -> ToolAccount:
    """A whole run; returns its account."""
    run = Run.fresh()
    for unit in reports.prepare(run, reports.ReportsRequest(folder, out or folder, **request)):
        reports.extract(run, unit)
    return reports.report(run)


#: What the tool writes beside the texts.
LOGS = (f"logs/{reports.SUMMARY}", f"logs/{reports.SUMMARY}".replace(".csv", ".parquet"))


def name_of(dataset: Dataset, ending: str = ".txt") -> str:
    return f"Clean_Report_{dataset.SOPInstanceUID.replace('.', '_')}{ending}"


def written(folder: Path) -> dict[str, bytes]:
    """Return the contents of the files of reports, by name."""
    return {path.name: path.read_bytes() for path in folder.rglob("Clean_Report_*")}


def summary(folder: Path) -> list[dict[str, str]]:
    with (folder / "logs" / reports.SUMMARY).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def visible(folder: Path) -> set[str]:
    """The files of a folder, without those in a tree's own folder."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in files if CONTROL not in path.parts}


def test_headings_and_text_of_any_template_are_in_order(tmp_path: Path) -> None:
    (path,) = write([report(1, *thoracic(), kind=COMPREHENSIVE)], tmp_path)
    narrative = narrative_of(dcmread(path))
    assert narrative is not None and narrative.text.split("\n") == THORACIC.split("\n")
    assert (narrative.title, narrative.language) == ("18748-4 LN", "fr")


@pytest.mark.parametrize("name", ["reportsi.dcm", "test-SR.dcm"])
def test_no_text_of_real_reports_is_lost(name: str) -> None:
    dataset = dcmread(str(get_testdata_file(name)))
    wanted: list[str] = []
    dataset.walk(lambda _, element: wanted.append(str(element.value)) if element.keyword == "TextValue" else None)
    narrative = narrative_of(dataset)
    assert narrative is not None and len(wanted) > 1
    lines = [line.strip() for line in narrative.text.split("\n")]
    for value in wanted:
        for line in re.split(r"[\r\n]+", value):
            lines = lines[next(n for n, shown in enumerate(lines) if shown.endswith(line)) :]


@pytest.mark.parametrize(
    ("marked", "shown"),
    [
        ("a < b and c > d", "a < b and c > d"),
        ("<5 mm, x<b and y>c, a<b>c, T2<p", "<5 mm, x<b and y>c, a<b>c, T2<p"),
        ("Dr. <mueller@example.org>, AT&T, R&D; 1 --> 2", "Dr. <mueller@example.org>, AT&T, R&D; 1 --> 2"),
        ("<p>One</p><P class='a>b'>Two<br/>Three</P>", "One\nTwo\nThree"),
        ("<ul><li>One<li>Two</ul>Three", "One\nTwo\nThree"),
        ("<table><tr><td>5</td><td>mm</td></tr><tr><td>6</td></tr></table>", "5\tmm\n6"),
        ('a <b>bold</b> <span style="x">word</span>', "a bold word"),
        ("<style>p { }</style><script>if (a<b) {}</script><!-- not <b>this</b> -->this", "this"),
        ("<!DOCTYPE html><html>\n  <body>\n    Text\n  </body>\n</html>", "Text"),
        ("&lt;5&nbsp;mm &eacute;&#233;&#xe9; &amp;lt; &unknown; &copy 5", "<5\xa0mm ééé &lt; &unknown; &copy 5"),
        ("<o:p></o:p>One\r\n\r\n\r\nTwo  \r\n  Three", "One\nTwo\nThree"),
        ("columns   stay\n  and indents", "columns   stay\n  and indents"),
        ("<div><b>cut off", "<b>cut off"),
    ],
)
def test_html_is_removed_and_other_text_stays(marked: str, shown: str) -> None:
    assert plain(marked) == shown


#: Correct text in many languages, with the signs that may follow a letter at the end of a word.
LANGUAGES = {
    "French": "L’échographie « d’une qualité\xa0» arrêtée… RÉSUMÉ\xa0: CAFÉ\xa0» l’été…\xa0» PRÉŒSOPHAGIEN, 5\xa0°C",
    "French, cited": "intitulé\xa0§\xa03, à\xa0«\xa0», montré\xa0®, d’É’s BEYONCÉ’S É–B É—A FIANCÉ™ CAFÉ®, CLÉ²",
    "German": "Größe über „GEMÜ“ und „Spaß“, groß… »Maß« Gruß’ ÄÖÜ: 5 °C, 3×½, Ø±2, Ø½, Süß–sauer",
    "Portuguese": "«IRMû “MANHÔ AMANHÅ MAÇÖ LÓ SÃO NÃO MANHÃ\xa0– não",
    "Spanish": "¿Qué tal? ¡ESPAÑA! N.º 5, el niño, 1ª",
    "Italian": "PERCHÉ’ È» CITTÀ” è così; virtù",
    "Czech": "VÝŠKA NÍŽE ÚŽASNÝ PÍŠE Příliš žluťoučký kůň úpěl ďábelské ódy",
    "Polish": "Zażółć gęślą jaźń",
    "Romanian": "Știință țară ÎN România «Â»",
    "Hungarian": "Árvíztűrő tükörfúrógép",
    "Turkish": "Pijamalı hasta yağız şoföre çabucak güvendi",
    "Vietnamese": "Tiếng Việt: ĐÂ» ÂN Ô” ÂU",
    "Danish": "Smørrebrød på Ærø, Ø” Ø12 Å«",
    "Icelandic": "BARл Norðurland Þór",
    "Catalan": "col·lecció PARAL·LEL É·A",
    "Greek": "Η αξονική τομογραφία θώρακος",
    "Russian": "Компьютерная томография органов грудной клетки",
    "Ukrainian": "Комп’ютерна томографія",
    "Hebrew": "בדיקת CT של החזה",
    "Arabic": "التصوير المقطعي للصدر",
    "Chinese": "胸部CT平扫未见明显异常",
    "Japanese": "胸部CTで異常なし。",
    "Korean": "흉부 CT 소견",
    "Thai": "เอกซเรย์ทรวงอก",
    "Hindi": "छाती का सीटी स्कैन",
}


def taken_for(text: str, windows: bool) -> str:
    """UTF-8 that was taken for Latin-1 or Windows-1252, where that has a character."""
    latin = text.encode().decode("latin-1")
    return "".join(c.encode("latin-1").decode("cp1252", "ignore") or c for c in latin) if windows else latin


@pytest.mark.parametrize("language", LANGUAGES)
def test_right_text_stays_and_doubly_encoded_text_is_repaired(language: str) -> None:
    right = LANGUAGES[language]
    assert repaired(right) == right
    for windows in (False, True):
        assert repaired(taken_for(right, windows)) == right
        assert repaired(taken_for(taken_for(right, windows), windows)) == right
        for other in ("German", "French", "Russian", "Chinese"):  # only a part was encoded twice
            mixed = f"{LANGUAGES[other]}\n{taken_for(right, windows)}"
            assert repaired(mixed) == f"{LANGUAGES[other]}\n{right}"


def test_text_of_real_translations_stays_and_is_repaired() -> None:
    """The texts are the translations of Airflow."""
    spec = importlib.util.find_spec("airflow")
    assert spec is not None and spec.submodule_search_locations
    (locales,) = Path(spec.submodule_search_locations[0]).glob("ui/**/i18n/locales")
    texts = [path.read_text(encoding="utf-8") for path in locales.glob("*/*.json")]
    texts = [text for text in texts if not text.isascii()]
    assert len(texts) > 100
    for right in texts:
        assert repaired(right) == right
        assert repaired(taken_for(right, windows=True)) == right


#: Letters of Latin scripts, without those that never follow a letter from Â to ß.
LETTERS = "".join(chr(number) for number in range(0xC0, 0x180) if chr(number) not in "ÿŸœ×")
#: Signs that may follow a word in correct text.
AFTER = ["", ".", "\xa0»", "»", "”", "’", "…", "…»", "\xa0:", "\xa0§\xa03", "™", "®", "²", "’s", "–"]
WORDS = st.builds(
    lambda word, case: case(word),
    st.text(st.sampled_from("abcxyz" + LETTERS), min_size=1, max_size=8),
    st.sampled_from((str.lower, str.upper, str.capitalize)),
)


@given(st.lists(st.tuples(WORDS, st.sampled_from(AFTER))))
def test_words_of_any_letters_stay_with_any_sign_behind_them(words: list[tuple[str, str]]) -> None:
    right = " ".join(word + after for word, after in words)
    assert repaired(right) == right


@given(st.text())
def test_repairing_again_changes_nothing_and_ascii_stays(found: str) -> None:
    assert repaired(repaired(found)) == repaired(found)
    ascii_part = "".join(filter(str.isascii, found))
    assert repaired(ascii_part) == ascii_part
    assert "".join(filter(str.isascii, repaired(found))) == ascii_part


@pytest.mark.parametrize(
    ("charset", "codec"),
    [
        ("ISO_IR 100", "latin-1"),
        ("ISO_IR 144", "iso8859_5"),
        ("ISO_IR 192", "utf-8"),
        ("GB18030", "gb18030"),
        ("", "utf-8"),  # no character set is given, and it is UTF-8
        ("", "latin-1"),  # no character set is given, and it is the usual one
        ("ISO_IR 100", "utf-8"),
        ("ISO_IR 192", "latin-1"),  # another one than is given
    ],
)
def test_text_is_decoded_with_the_character_sets_that_the_object_names(
    charset: str, codec: str, tmp_path: Path
) -> None:
    said = {"iso8859_5": "Узлов и выпота нет.", "gb18030": "胸部未见明显异常"}.get(
        codec, "Opéré à côté, sûr, intitulé «\xa0été\xa0»"
    )
    made = report(1, *carestream("PLACEHOLDER" + "." * (len(said.encode(codec)) - 11)), charset="ISO_IR 100")
    made.SpecificCharacterSet = charset
    (path,) = write([made], tmp_path)
    raw = path.read_bytes()
    at = raw.index(b"PLACEHOLDER")
    path.write_bytes(raw[:at] + said.encode(codec) + raw[at + len(said.encode(codec)) :])
    assert take_out(tmp_path).verdict == "complete"
    assert written(tmp_path) == {name_of(made): said.encode()}


@pytest.mark.parametrize(
    ("charset", "said"),
    [
        (["", "ISO 2022 IR 87"], "胸部 CT で異常なし。\n所見"),
        (["", "ISO 2022 IR 149"], "흉부 CT 소견"),
        (["ISO 2022 IR 100", "ISO 2022 IR 144"], "Größe, Узлов нет"),
    ],
)
def test_escape_sequences_change_the_character_set(charset: list[str], said: str, tmp_path: Path) -> None:
    write([report(1, *carestream(said), charset=charset)], tmp_path)
    take_out(tmp_path)
    assert [value.decode() for value in written(tmp_path).values()] == [said]


def test_an_item_may_name_a_character_set_of_its_own(tmp_path: Path) -> None:
    greek = text("Comment", "Πνεύμονες", SpecificCharacterSet="ISO_IR 126")
    write([report(1, greek, text("Comment", "Größe"), charset="ISO_IR 100")], tmp_path)
    take_out(tmp_path)
    assert next(iter(written(tmp_path).values())).decode() == "CT report\nComment: Πνεύμονες\nComment: Größe"


def _tree(folder: Path) -> dict[str, Dataset]:
    """A tree made by an extraction, with reports and documents of all kinds among images; returns them by name."""
    made = {
        "carestream": report(1, *carestream("Poumons : RAS.\nCœur normal.")),
        "html": report(2, *carestream("<html><body><p>Un</p>\n<p>Deux &lt; trois</p></body></html>")),
        "thoracic": report(3, *thoracic(), kind=COMPREHENSIVE),
        "dose": report(4, text("Comment", "CT of the head"), number("DLP", "300", "mGy.cm"), kind=DOSE),
        "measured": report(5, *CONTEXT, number("Diameter", "5", "mm"), kind=COMPREHENSIVE),
        "pdf": document(6, b"%PDF-1.4 pages\n%%EOF\n", EncapsulatedDocumentLength=21),
        "padded": document(7, b"%PDF-1.4 page \n%%EOF\n"),
        "no pdf": document(8, b"Notburga"),
        "cut": document(9, b"%PDF-1.4", EncapsulatedDocumentLength=4000),
        "cda": document(10, b"<ClinicalDocument/>", CDA),
    }
    with serving([*made.values(), *series("R1", SeriesDescription="CT")], folder.parent / "archive") as pacs:
        assert extract(node_of(pacs), [{"PatientID": "R1"}], folder).verdict == "complete"
    return made


def test_reports_lie_beside_their_objects_and_dose_reports_are_left_alone(tmp_path: Path) -> None:
    made = _tree(tmp_path / "tree")
    before = visible(tmp_path / "tree")
    account = take_out(tmp_path / "tree")
    assert written(tmp_path / "tree") == {
        name_of(made["carestream"]): "Poumons : RAS.\nCœur normal.".encode(),
        name_of(made["html"]): b"Un\nDeux < trois",
        name_of(made["thoracic"]): THORACIC.encode(),
        name_of(made["pdf"], ".pdf"): b"%PDF-1.4 pages\n%%EOF\n",
        name_of(made["padded"], ".pdf"): b"%PDF-1.4 page \n%%EOF\n",
        name_of(made["cda"], ".xml"): b"<ClinicalDocument/>",
    }
    for path in (tmp_path / "tree").rglob("Clean_Report_*"):
        beside = path.with_name(path.stem.removeprefix("Clean_Report_").replace("_", ".") + ".dcm")
        assert beside.exists()
    new = visible(tmp_path / "tree") - before
    assert len(new) == 8 and f"logs/{reports.SUMMARY}" in new
    assert len(parquet_as_csv(tmp_path / "tree" / "logs" / reports.SUMMARY)) == 10

    assert account.verdict == "incomplete" and account.counts["written"] == 6 and account.counts["left alone"] == 2
    assert account.passed_over["left alone: dose report"] == account.passed_over["no report"] == 1
    assert account.passed_over[f"left alone: {reports.NO_TEXT}"] == 1
    assert {reason for _, reason in account.problems} == {
        "it holds no document of the kind that its SOP class names",
        "the document in it is cut off",
    }
    told = (tmp_path / "tree" / "logs" / reports.SUMMARY).read_text()
    assert not any(word in told for word in ("R1", "Report^", "2.25", "sub-", "2018", "Zwetschge"))
    lines = summary(tmp_path / "tree")
    assert [line["Outcome"] for line in lines].count("written") == 6 and len(lines) == 10
    assert {"Kind": "SR", "Characters": "27", "Title": "18748-4 LN", "Language": "fr"}.items() <= lines[0].items()


def test_a_second_run_writes_nothing_and_overwrites_other_files_only_if_asked(tmp_path: Path) -> None:
    one, two = report(1, *carestream("One.")), report(2, *carestream("Two."))
    write([one, two], tmp_path)
    take_out(tmp_path)
    first, second = (tmp_path / name_of(made) for made in (one, two))
    second.write_text("Annotated by hand")
    untouched = first.stat().st_ino, first.stat().st_mtime_ns
    account = take_out(tmp_path)
    assert (account.counts["already there"], account.counts["written"], len(account.problems)) == (1, 0, 1)
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == untouched and second.read_text() == "Annotated by hand"
    assert take_out(tmp_path, overwrite=True).verdict == "complete" and second.read_text() == "Two."


def test_one_bad_object_does_not_stop_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    paths = write([report(number, *carestream(f"Report {number}.")) for number in range(1, 6)], folder)
    whole = [path.read_bytes() for path in paths]
    paths[0].write_bytes(whole[0][:-4])
    paths[1].write_bytes(whole[1].replace(b"UT\0\0\x0a\0", b"UT\0\0\x0a\1"))
    deep = b""
    for _ in range(3000):
        item = b"\xfe\xff\x00\xe0" + len(deep).to_bytes(4, "little") + deep
        deep = b"\x40\x00\x30\xa7SQ\0\0" + len(item).to_bytes(4, "little") + item
    paths[2].write_bytes(whole[2][: whole[2].index(b"\x40\x00\x30\xa7SQ")] + deep)
    (folder / "notes.txt").write_text("no DICOM")
    account = take_out(folder)
    assert account.counts["written"] == 2 and account.passed_over["not DICOM"] == 1
    damaged = "its content is damaged, or not encoded as the standard says"
    assert [reason for _, reason in account.problems] == ["the file is truncated", damaged, damaged]


def test_texts_may_go_into_another_folder_but_not_among_data_of_another_state(tmp_path: Path) -> None:
    source, out = tmp_path / "tree", tmp_path / "texts"
    made = report(1, *carestream("One."))
    write([made], source / "sub-1" / "ses-1")
    write_marker(_control(source), {"state": IDENTIFIED})
    assert take_out(source, out).verdict == "complete"
    assert visible(out) == {f"sub-1/ses-1/{name_of(made)}", *LOGS} and not (out / CONTROL).exists()
    assert not (source / "logs").exists() and written(source) == {}

    write_marker(_control(tmp_path / "other"), {"state": DEIDENTIFIED})
    with pytest.raises(TreeError, match="out_folder lies in data that is de-identified"):
        take_out(source, tmp_path / "other" / "texts")
    write_marker(source, {"state": DEIDENTIFIED})
    assert take_out(source, tmp_path / "other" / "texts").verdict == "complete"
    write_marker(source, {"state": CONVERTING})
    with pytest.raises(TreeError, match="half de-identified"):
        take_out(source / "sub-1", tmp_path / "more")
    assert not (tmp_path / "more").exists()
    with pytest.raises(InputError, match="holds no DICOM file"):
        take_out(out)


def _control(folder: Path) -> Path:
    (folder / CONTROL).mkdir(parents=True, exist_ok=True)
    return folder


def test_texts_equal_those_of_pacsifier_1_0_0_where_those_are_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    programs = old_pacsifier.installed()
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    right = [
        "Poumons : pas de lésion.\nCœur de taille normale.",
        "Indication\n\nDouleur.\n\nConclusion\n\nNormal.",
        "<p>Indication &eacute;</p>\n<p>Conclusion : <b>normal</b> &lt; 5 mm</p>",
        taken_for("Opéré, très fatigué, sûr, maïs, côté, âge", windows=False),
    ]
    wrong = {
        "One<br>Two": "One\nTwo",  # theirs: OneTwo
        taken_for("À Noël", windows=False): "À Noël",  # not in their list
        "MANHÃ": "MANHÃ",  # theirs: MANHà
    }
    write([report(n, *carestream(value)) for n, value in enumerate([*right, *wrong])], tmp_path / "archive")
    with serving([dcmread(path) for path in (tmp_path / "archive").iterdir()], tmp_path / "served") as pacs:
        extract(node_of(pacs), [{"PatientID": "R1"}], ours)
    shutil.copytree(ours, theirs)
    for path in list(theirs.rglob("*.dcm")):
        path.rename(path.with_name(f"SRc.{path.stem}"))  # the only names that it looks at
    command = [str(programs / "pacsifier-extract-carestream-report"), "-d", str(theirs)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert main(["-d", str(ours)]) == 0
    assert "complete: 7 reports, 7 written" in capsys.readouterr().out
    old, new = ({p.relative_to(f): p.read_bytes() for p in f.rglob("Clean_*")} for f in (theirs, ours))
    assert old.keys() == new.keys()
    assert sorted(new[path] for path in new if new[path] != old[path]) == sorted(map(str.encode, wrong.values()))


def test_texts_do_not_disturb_later_steps_on_the_tree(tmp_path: Path) -> None:
    source, out = tmp_path / "tree", tmp_path / "deidentified"
    made = report(1, *carestream("Seen with Mrs Zwetschge. Normal heart."), PatientName="Zwetschge^Notburga")
    write([made, *series("R1", "Zwetschge^Notburga")], source / "sub-R1" / "ses-1" / "00001-Reports")
    take_out(source)
    found = scan(source)  # as before sending
    assert found.passed_over["not DICOM"] == 3 and not found.bad_files
    assert (
        anonymize(["-d", str(source), "-o", str(out), "--profile", "pacsifier+clean_narratives", "--no_contact_sheets"])
        == 0
    )
    assert written(out) == {} and len(written(source)) == 1
    assert take_out(out).verdict == "complete"
    (said,) = written(out).values()
    assert b"heart" in said and b"Zwetschge" not in said
    assert (
        anonymize(
            ["-d", str(source), "-o", str(source), "--profile", "pacsifier+clean_narratives", "--no_contact_sheets"]
        )
        == 0
    )
    assert written(source) == {} and not (source / "logs").exists()


def test_killed_at_any_moment_it_leaves_no_unfinished_text(tmp_path: Path) -> None:
    folder, said = tmp_path / "tree", "A line of a long report.\n" * 4000
    write([report(number, *carestream(f"{said}{number}")) for number in range(1, 61)], folder)

    def texts() -> int:
        """Return the number of texts; all of them are whole."""
        found = [path.read_text() for path in folder.glob("Clean_Report_*")]
        assert all(text.startswith(said) and text[len(said) :].isdigit() for text in found)
        return len(found)

    before = 0
    for after in (6, 150, 300, 330):
        assert killed(lambda: main(["-d", str(folder)]), after)
        assert before <= (before := texts()) < 60
    assert before
    assert main(["-d", str(folder)]) == 0
    assert texts() == 60 and len(visible(folder)) == 60 + 60 + 2  # objects, texts, summary
