"""A matrix of archives against queries: the cohort, the queries, and what each of them means.

The answers are written by hand, from PS3.4 C.2.2.2, PS3.5 6.1 and 6.2 and docs/query-table.md. Nothing here asks an
archive, or the code that is judged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

ROOT = "1.2.826.0.1.3680043.10.1449"
CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4", "OT": "1.2.840.10008.5.1.4.1.1.7"}


@dataclass(frozen=True)
class Patient:
    """A person, and how the archive's files write the name.

    Attributes:
        name: groups as they are, divided by `=`.
        declared: SpecificCharacterSet of the files; empty is none.
        codec: Python's name of the encoding that the files are in, whatever is declared.
    """

    id: str
    name: str
    declared: str = ""
    codec: str = "ascii"
    birth: str = "19010203"
    issuer: str = ""


@dataclass(frozen=True)
class Series:
    """One series of one study; what is left out is of no interest to any query."""

    patient: str
    study: str
    date: str
    time: str
    accession: str = ""
    about: str = "Routine"
    modality: str = "OT"
    number: int = 3
    description: str = "Serie"
    protocol: str = "Standard"
    device: str = "SN-900"
    sequence: str = ""
    kinds: tuple[str, ...] = (r"ORIGINAL\PRIMARY",)
    acquired: tuple[str, ...] = ("20190101",)
    """ImageType and AcquisitionDate of each image; the last one goes on."""
    images: int = 1


PATIENTS = {
    "john": Patient("00012", "Doe^John", birth="19700101"),
    "jane": Patient("12", "Doe^Jane^Mary", birth="19700101"),
    "anna": Patient("aB 7", "Meyer-Schmidt^Anna"),
    "urs": Patient("AB 7", "Keller^Urs"),
    "ida": Patient("aB7", "Doesburg^Ida"),
    "mario": Patient("X1", "Rossi^Mario", birth="19500505", issuer="HOSP_A"),
    "luca": Patient("X1", "Bianchi^Luca", birth="19600606", issuer="HOSP_B"),
    "nora": Patient("ND1", "Nodate^Nora"),
    "nils": Patient("NT1", "Notime^Nils"),
    "clock": Patient("CLOCK", "Clock^Day"),
    "night": Patient("NIGHT", "Clock^Night"),
    # Latin letters beyond ASCII, as they are declared.
    "ewa": Patient("L2-1", "Żółć^Ewa", "ISO_IR 101", "iso8859-2"),
    "antonin": Patient("L2-2", "Dvořák^Antonín", "ISO_IR 101", "iso8859-2"),
    "pal": Patient("L2-3", "Erdős^Pál", "ISO_IR 101", "iso8859-2"),
    "ayse": Patient("L5-1", "Yıldız^Ayşe", "ISO_IR 148", "iso8859-9"),
    "jurg": Patient("L1-1", "Müller^Jürg", "ISO_IR 100", "iso8859-1"),
    "ute": Patient("U8-1", "Müller^Ute", "ISO_IR 192", "utf-8"),
    "karl": Patient("AS-1", "Mueller^Karl"),
    "max": Patient("AS-2", "Muller^Max"),
    "olga": Patient("L1-2", "Strauß^Olga", "ISO_IR 100", "iso8859-1"),
    # Other scripts, as they are declared.
    "ivan": Patient("CY-1", "Иванов^Иван", "ISO_IR 144", "iso8859-5"),
    "nikos": Patient("GR-1", "Παπαδόπουλος^Νίκος", "ISO_IR 126", "iso8859-7"),
    "taro": Patient("JP-1", "Yamada^Tarou=山田^太郎=やまだ^たろう", r"\ISO 2022 IR 87", "iso2022_jp"),
    "gildong": Patient("KR-1", "Hong^Gildong=洪^吉洞=홍^길동", r"\ISO 2022 IR 149", "korean"),
    "ming": Patient("CN-1", "Wang^XiaoMing=王^小明", "GB18030", "gb18030"),
    "wei": Patient("CN-2", "Zhang^Wei=张^伟", "GBK", "gbk"),
    # Letters that are not what is declared.
    "na": Patient("BAD-GBK", "李^娜", "", "gbk"),
    "pyotr": Patient("BAD-1251", "Петров^Пётр", "", "cp1251"),
    "eleni": Patient("BAD-GR", "Γεωργίου^Ελένη", "", "iso8859-7"),
    "ichiro": Patient("BAD-SJIS", "鈴木^一郎", "", "shift_jis"),
    "bjorn": Patient("BAD-U8", "Åkesson^Björn", "", "utf-8"),
    "zofie": Patient("BAD-1252", "Šebek^Žofie", "ISO_IR 100", "cp1252"),
    "jose": Patient("BAD-100", "Núñez^José", "ISO_IR 100", "utf-8"),
    "jiri": Patient("BAD-192", "Šimůnek^Jiří", "ISO_IR_192", "utf-8"),
}
#: Patients with one study of one image, on consecutive days of 2018.
PLAIN = [
    *("mario", "luca", "anna", "urs", "ida", "ewa", "antonin", "pal", "ayse", "jurg", "ute", "karl", "max", "olga"),
    *(
        "ivan",
        "nikos",
        "taro",
        "gildong",
        "ming",
        "wei",
        "na",
        "pyotr",
        "eleni",
        "ichiro",
        "bjorn",
        "jose",
        "jiri",
        "zofie",
    ),
]
FIRST = (r"ORIGINAL\PRIMARY\M\ND",)
SERIES = {
    "t1": Series(
        *(
            "john",
            "john1",
            "20200310",
            "101530",
            "A100",
            "MRI Brain",
            "MR",
            1,
            "T1 MPRAGE",
            "BEAT_SelfNav_T1",
            "SN 001",
        ),
        *("*tfl3d1_16", FIRST, ("20200310",), 2),
    ),
    "flair": Series(
        *("john", "john1", "20200310", "101530", "A100", "MRI Brain", "MR", 2, "T2 [iso] 50%", "FLAIR", "SN 001"),
        *("*spcir_242", (r"ORIGINAL\PRIMARY\M\NORM",), ("20200311",)),
    ),
    "thorax": Series(
        *("john", "john2", "20200311", "2359", "A100", "CT Thorax", "CT", 7, "Thorax 1.0", "BEAT_SelfNav_CT", "SN-001"),
        *("", (r"DERIVED\PRIMARY\AXIAL",), ("20200311",)),
    ),
    "shot": Series(
        *("jane", "jane1", "20200310", "101545.5", "A100", "mri brain", "CT", 7, "T2 i 50%", "beat_selfnav", "SN001"),
        *("", (r"DERIVED\SECONDARY\SCREEN SAVE",), ("20200310",)),
    ),
    "mpr": Series(
        *("jane", "jane1", "20200310", "101545.5", "A100", "mri brain", "CT", 12, "MPR", "Standard", "SN001"),
        *("", (r"DERIVED\SECONDARY\MPR",), ("20200310",)),
    ),
    # The two images of one series differ in ImageType and AcquisitionDate.
    "mixed": Series(
        *("jane", "jane2", "19991231", "120000", "A101", "Control", "CT", 70, "Mixed", "Standard", "SN-7"),
        *("", (r"ORIGINAL\PRIMARY", r"DERIVED\SECONDARY\SCREEN SAVE"), ("19991230", "20000101"), 2),
    ),
    "nora": Series("nora", "nora1", "", "", "N100"),
    "nils": Series("nils", "nils1", "20200701", "", "N101"),
    **{
        f"day{n}": Series("clock", f"day{n}", "20200601", time)
        for n, time in enumerate(["101530", "101545.5", "1015", "10", "101600", "101530.25", "", "101459.999999"])
    },
    **{
        f"night{n}": Series("night", f"night{n}", date, time)
        for n, (date, time) in enumerate(
            [
                *[("20200502", time) for time in ("220000", "233000.5", "013000", "020059", "0200", "22")],
                *[("20200502", time) for time in ("020100", "215959.9", "")],
                ("20200503", "0030"),
                ("20200501", "235959"),
            ]
        )
    },
    **{
        who: Series(
            *(who, f"{who}1", f"201801{day:02}", f"08{day:02}00", f"P{day:02}"),
            about={"jurg": "Schädel", "max": "Schadel", "ivan": "Голова"}.get(who, "Routine"),
        )
        for day, who in enumerate(PLAIN, 1)
    },
}


@dataclass(frozen=True)
class Query:
    """One line of the query table, and what it means.

    Attributes:
        title: what it tries, for people.
        cells: what the line holds, by column.
        meant: labels of the series that must come, divided by blanks; `mixed/2` is one image of a series.
        allowed: the same, what else may come, where documents and standard leave it open.
        short: it is one of those that archives with faults are asked, too.
    """

    title: str
    cells: dict[str, str]
    meant: str = ""
    allowed: str = ""
    short: bool = False


def uid(label: str) -> str:
    """UID of a series, a study (`study john1`) or an image (`mixed/2`)."""
    return f"{ROOT}.{int.from_bytes(label.encode()[-14:])}"


def images(labels: str) -> set[str]:
    """SOP Instance UIDs behind labels."""
    found = set()
    for label in labels.split():
        name, _, number = label.partition("/")
        numbers = [int(number)] if number else range(1, SERIES[name].images + 1)
        found |= {uid(f"{name}/{n}") for n in numbers}
    return found


JOHN, JANE = "t1 flair thorax", "shot mpr mixed"
QUERIES = [
    # ---- ids
    Query("id with leading zeros", {"PatientID": "00012"}, JOHN, short=True),
    Query("the same id without", {"PatientID": "12"}, JANE),
    Query("id, wildcard *", {"PatientID": "0*12"}, JOHN),
    Query("id, wildcard ?", {"PatientID": "L2-?"}, "ewa antonin pal", short=True),
    Query("id with blank and case", {"PatientID": "aB 7"}, "anna", short=True),
    Query("id, wildcard and case", {"PatientID": "A*7"}, "urs"),
    Query("one id, two issuers", {"PatientID": "X1"}, "mario luca"),
    Query("one id, two issuers, a name", {"PatientID": "X1", "PatientName": "Bianchi"}, "luca", short=True),
    Query("one id, two issuers, birth date", {"PatientID": "X1", "PatientBirthDate": "19500505"}, "mario"),
    Query("id that nobody has", {"PatientID": "ZZ999"}, short=True),
    Query("id in another case", {"PatientID": "clock"}),
    # ---- studies
    Query("accession of three studies", {"AccessionNumber": "A100"}, "t1 flair thorax shot mpr", short=True),
    Query("accession, wildcard", {"AccessionNumber": "?10?"}, f"{JOHN} {JANE} nora nils"),
    Query("study description, case", {"StudyDescription": "MRI*"}, "t1 flair", short=True),
    Query("study description, umlaut", {"StudyDescription": "Schädel"}, "jurg"),
    Query("study description, Cyrillic", {"StudyDescription": "Голова"}, "ivan"),
    Query("birth date", {"PatientBirthDate": "19700101"}, f"{JOHN} {JANE}", short=True),
    Query("StudyInstanceUID", {"StudyInstanceUID": uid("study john1")}, "t1 flair"),
    Query(
        "StudyInstanceUID of another patient", {"StudyInstanceUID": uid("study john1"), "PatientID": "12"}, short=True
    ),
    # ---- series
    Query("SeriesInstanceUID", {"SeriesInstanceUID": uid("flair")}, "flair", short=True),
    Query("series description with [ ]", {"SeriesDescription": "T2 [iso]*"}, "flair"),
    Query(
        "protocol, modality, birth date",
        {"ProtocolName": "BEAT_SelfNav*", "Modality": "CT", "PatientBirthDate": "19700101"},
        "thorax",
        short=True,
    ),
    Query("device", {"DeviceSerialNumber": "SN 001"}, "t1 flair"),
    Query("device, wildcard", {"DeviceSerialNumber": "SN?001"}, "t1 flair thorax", short=True),
    Query("sequence name, wildcard", {"SequenceName": "*tfl3d1*"}, "t1"),
    Query("modality and date", {"Modality": "CT", "StudyDate": "20200310"}, "shot mpr", short=True),
    Query("modality, wildcard", {"Modality": "?R"}, "t1 flair"),
    Query("series number 007", {"SeriesNumber": "007"}, "thorax shot", short=True),
    Query("ImageType, one value", {"ImageType": "SCREEN SAVE"}, "shot mixed/2", "mixed/1", short=True),
    Query("ImageType, first values", {"ImageType": r"DERIVED\SECONDARY"}, "shot mpr mixed/2", "mixed/1"),
    Query("ImageType, an empty value", {"ImageType": r"ORIGINAL\\M"}, "t1 flair"),
    Query("acquisition date", {"AcquisitionDate": "20200311"}, "flair thorax"),
    Query("acquisition date of one image", {"AcquisitionDate": "20000101"}, "mixed/2", "mixed/1"),
    Query("acquisition date, range", {"AcquisitionDate": "20200301-20200310"}, "t1 shot mpr"),
    # ---- dates and times
    Query("study date", {"StudyDate": "20200310"}, "t1 flair shot mpr", short=True),
    Query("study date, range", {"StudyDate": "20200310-20200311"}, "t1 flair thorax shot mpr", short=True),
    Query("study date, open range", {"StudyDate": "-20171231"}, "mixed"),
    Query("study without date, by id", {"PatientID": "ND1"}, "nora"),
    Query("study without date, by range", {"PatientID": "ND1", "StudyDate": "19000101-20991231"}, short=True),
    Query("study without time, by time", {"StudyDate": "20200701", "StudyTime": "0000-2359"}),
    Query("minute", {"StudyDate": "20200601", "StudyTime": "1015"}, "day0 day1 day2 day3 day5", short=True),
    Query("second", {"StudyDate": "20200601", "StudyTime": "101530"}, "day0 day2 day3 day5"),
    Query("fraction", {"StudyDate": "20200601", "StudyTime": "101545.5"}, "day1 day2 day3"),
    Query("minutes, range", {"StudyDate": "20200601", "StudyTime": "1015-1016"}, "day0 day1 day2 day3 day4 day5"),
    Query("hour to minute", {"StudyDate": "20200601", "StudyTime": "10-1014"}, "day3 day7"),
    Query(
        "over midnight",
        {"StudyDate": "20200502", "StudyTime": "2200-0200"},
        "night0 night1 night2 night3 night4 night5",
        short=True,
    ),
    Query(
        "over midnight, two dates",
        {"StudyDate": "20200502-20200503", "StudyTime": "2200-0200"},
        "night0 night1 night2 night3 night4 night5 night9",
    ),
    Query(
        "over midnight, any date",
        {"StudyTime": "2330-0030"},
        "night1 night9 night10 thorax",
    ),
    # ---- names
    Query("name, one word", {"PatientName": "Doe"}, f"{JOHN} {JANE}", short=True),
    Query("name, two words", {"PatientName": "doe, john"}, JOHN),
    Query("name, wildcard", {"PatientName": "Doe*"}, f"{JOHN} {JANE} ida"),
    Query("half of a double name", {"PatientName": "Schmidt"}, "anna"),
    Query("name that nobody has", {"PatientName": "Nobody^At All"}, short=True),
    Query("Zolc for Żółć", {"PatientName": "Zolc"}, "ewa", short=True),
    Query("Żółć", {"PatientName": "Żółć^Ewa"}, "ewa"),
    Query("Dvorak for Dvořák", {"PatientName": "Dvorak"}, "antonin"),
    Query("Dvořák, and the date", {"PatientName": "Dvořák", "StudyDate": "20180107"}, "antonin", short=True),
    Query("Erdos for Erdős", {"PatientName": "Erdos"}, "pal"),
    Query("Yildiz for Yıldız", {"PatientName": "Yildiz"}, "ayse"),
    Query("Yıldız, and the id", {"PatientName": "Yıldız", "PatientID": "L5-1"}, "ayse"),
    Query("Muller for Müller", {"PatientName": "Muller"}, "jurg ute max", short=True),
    Query("Müller for Muller", {"PatientName": "MÜLLER"}, "jurg ute max"),
    Query("Müller, given name", {"PatientName": "Müller^Ute"}, "ute"),
    Query("Strauss for Strauß", {"PatientName": "strauss"}, "olga"),
    Query("Cyrillic", {"PatientName": "иванов"}, "ivan", short=True),
    Query("Cyrillic, and the date", {"PatientName": "Иванов", "StudyDate": "20180115"}, "ivan"),
    Query("Greek without accent", {"PatientName": "ΠΑΠΑΔΟΠΟΥΛΟΣ"}, "nikos"),
    Query("Japanese, ideographs", {"PatientName": "山田^太郎"}, "taro", short=True),
    Query("Japanese, Latin", {"PatientName": "Tarou Yamada"}, "taro"),
    Query("Japanese, two groups", {"PatientName": "Yamada=山田"}, "taro"),
    Query("Korean, phonetic", {"PatientName": "홍^길동"}, "gildong"),
    Query("Korean, Hanja", {"PatientName": "洪"}, "gildong"),
    Query("Chinese, GB18030", {"PatientName": "王^小明"}, "ming", short=True),
    Query("Chinese, GBK", {"PatientName": "张^伟"}, "wei"),
    # ---- names whose letters are not what is declared
    Query("GBK, not declared", {"PatientName": "李^娜"}, "na", short=True),
    Query("GBK, not declared, and the id", {"PatientName": "李^娜", "PatientID": "BAD-GBK"}, "na"),
    Query("CP1251, not declared", {"PatientName": "Петров"}, "pyotr"),
    Query("Greek, not declared", {"PatientName": "Γεωργίου"}, "eleni"),
    Query("Shift_JIS, not declared", {"PatientName": "鈴木"}, "ichiro"),
    Query("UTF-8, not declared", {"PatientName": "Akesson"}, "bjorn"),
    Query("UTF-8, declared ISO_IR 100", {"PatientName": "Nunez"}, "jose", short=True),
    Query("UTF-8, declared ISO_IR_192", {"PatientName": "Simunek"}, "jiri"),
    Query("CP1252, declared ISO_IR 100", {"PatientName": "Sebek"}, "zofie"),
    Query("only the id of such a name", {"PatientID": "BAD-*"}, "na pyotr eleni ichiro bjorn jose jiri zofie"),
]


# ---- files


def write(folder: Path) -> list[Path]:
    """The files of the cohort, one an image."""
    paths = []
    for label, series in SERIES.items():
        for number in range(1, series.images + 1):
            path = folder / f"{label}-{number}.dcm"
            _image(label, series, number).save_as(path, enforce_file_format=True)
            paths.append(path)
    return paths


def encoded(text: str, codec: str) -> bytes:
    """Text in the bytes of a codec; `korean` is ISO 2022 IR 149 with its escapes (PS3.5 I.2)."""
    if codec != "korean":
        return text.encode(codec)
    words = [b"".join([b"" if word.isascii() else b"\x1b$)C", word.encode("euc_kr")]) for word in text.split("^")]
    return b"^".join(words)


def _image(label: str, series: Series, number: int) -> Dataset:
    patient = PATIENTS[series.patient]
    name = b"=".join(encoded(group, patient.codec) for group in patient.name.split("="))
    image = Dataset()
    image.SOPClassUID = CLASSES[series.modality]
    image.SOPInstanceUID = uid(f"{label}/{number}")
    image.StudyInstanceUID, image.SeriesInstanceUID = uid(f"study {series.study}"), uid(label)
    image.StudyDate, image.StudyTime, image.AccessionNumber = series.date, series.time, series.accession
    image.AcquisitionDate = series.acquired[min(number, len(series.acquired)) - 1]
    image.Modality, image.SeriesNumber, image.InstanceNumber = series.modality, series.number, number
    image.SeriesDescription, image.ProtocolName = series.description, series.protocol
    image.DeviceSerialNumber, image.SequenceName = series.device, series.sequence
    image.ImageType = series.kinds[min(number, len(series.kinds)) - 1].split("\\")
    image.PatientID, image.PatientBirthDate, image.PatientSex = patient.id, patient.birth, ""
    image.StudyID, image.ReferringPhysicianName = "", ""
    if patient.issuer:
        image.IssuerOfPatientID = patient.issuer
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows = image.Columns = 2
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    image.PixelData = bytes(8)
    _put(image, 0x00100010, "PN", name)
    _put(image, 0x00081030, "LO", encoded(series.about, patient.codec))
    if patient.declared:
        _put(image, 0x00080005, "CS", patient.declared.encode())
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return image


def _put(image: Dataset, tag: int, vr: str, value: bytes) -> None:
    """A value in bytes of our own choice."""
    value += b" " * (len(value) % 2)
    image[tag] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)


# ---- verdicts

RIGHT, NAMED, WRONG = "right", "named", "silently wrong"


def verdict(query: Query, found: Iterable[str], answered: bool, reason: str, held: set[str]) -> str:
    """What a row's outcome is worth.

    Args:
        found: SOP Instance UIDs of the files that came for the row.
        answered: the run says that the row is answered and that all its series are complete.
        reason: what it says otherwise.
        held: SOP Instance UIDs that the archive took when it was loaded.
    """
    came, meant = set(found), images(query.meant) & held
    if came - meant - images(query.allowed):
        return WRONG
    if answered:
        return RIGHT if came >= meant else WRONG
    return NAMED if reason else WRONG
