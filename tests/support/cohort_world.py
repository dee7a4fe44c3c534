"""A hospital of 1,000 patients in a real archive, with all that is odd in real ones, and requests drawn over it.

Everything comes from a seed. The listing, one line per series with what the archive holds, is what the answer key
(`tests.support.cohort_oracle`) decides on.
"""

from __future__ import annotations

import json
import random
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import date, timedelta
from http.client import HTTPConnection
from io import BytesIO
from itertools import islice
from typing import Any

import pandas as pd
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from tests.support.peers import Orthanc

#: Told by the archive at IMAGE level only; see HIDING.
AT_IMAGE_LEVEL = ("SliceThickness", "ConvolutionKernel")
#: Orthanc would read these from a file even where it is asked for series; this script makes it as most archives are.
HIDING = """
function IncomingFindRequestFilter(source, origin)
  if source['0008,0052'] == 'SERIES' then
    source['0018,0050'] = nil
    source['0018,1210'] = nil
  end
  return source
end
"""
PATIENTS = 1000

BLANK = ("", None)
#: Days between a patient's event and a study: ties, both ends of common windows, and days beside them.
OFFSETS = (-3, 3, 0, 0, -30, 30, -31, 31, 1, -1, 10, -10, -90, 200, -365, -366, 400, -1500, -3651)
TIMES = (
    "080000",
    "08:00:00",
    "10",
    "101530",
    "101530.000",
    "101530.5",
    "1015",
    "235959.5",
    "000000",
    "9999",
    "",
    "",
    None,
)
STUDIES = ("CT Thorax", "ct thorax", "CT THORAX", "MRT Schädel", "MRT SCHÄDEL", "Kontrolle", "", None)
SERIES = (
    *("Thorax 1.0 B70f", "THORAX 1.0 b70f", "Lung thin", "lung THIN ", "SCOUT", "scout", "Scout lat", " Scout"),
    *("Topogram 0.6", "TOPOGRAMM", "ein Topogramm", "Übersicht", "ÜBERSICHT a", "Локалайзер", "ЛОКАЛАЙЗЕР 2"),
    *("Thorax [thin]", "Thorax thin? 1", "a*b", "axb", "Ax T1  FLAIR", "Ax T1 FLAIR", "Dose Report", "", None),
)
PROTOCOLS = ("Thorax_Routine", "THORAX_ROUTINE", "Head^Standard", "LungScreening (Adult)", "", None)
PARTS = ("CHEST", "THORAX", "chest", "HEAD", "ABDOMEN", "", None)
IMAGE_TYPES: tuple[Any, ...] = (
    *(["ORIGINAL", "PRIMARY", "AXIAL"], ["ORIGINAL", "PRIMARY", "LOCALIZER"], ["DERIVED", "SECONDARY", "MPR"]),
    *(["DERIVED", "PRIMARY", "LOCALIZER", "CT_SOM5 TOP"], ["ORIGINAL", "PRIMARY"], "DERIVED", "", None),
)
THICKNESSES = ("0.6", "1", "1.0", "1.25", "1.5", "1.50", "1.5E0", "3", "5.0", "", None)
KERNELS: tuple[Any, ...] = ("B70f", "b70f", "B31s", "LUNG", ["I70f", "3"], "", None)
AGES = ("017Y", "018Y", "045Y", "215M", "216M", "935W", "936W", "900D", "45", "", None)
AGENTS = ("Omnipaque", "OMNIPAQUE 350", "ja", "", None)
MAKERS = (
    ("SIEMENS", "Sensation 64"),
    ("Siemens", "SOMATOM Definition"),
    ("GE MEDICAL SYSTEMS", "Revolution"),
    ("", ""),
)
STATIONS = ("CT01", "ct02", "MR-7", "", None)
MODALITIES = ("CT", "CT", "CT", "CT", "MR", "MR", "CR", "SR")
#: Attributes of a line of the listing; all but the last are written into the files.
COLUMNS = (
    *("PatientID", "PatientBirthDate", "PatientAge", "StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber"),
    *("StudyDescription", "SeriesInstanceUID", "SeriesDate", "SeriesTime", "SeriesNumber", "Modality"),
    *("SeriesDescription", "BodyPartExamined", "ProtocolName", "ImageType", "SliceThickness", "ConvolutionKernel"),
    *("ContrastBolusAgent", "Manufacturer", "ManufacturerModelName", "StationName", "NumberOfSeriesRelatedInstances"),
)


def text_of(day: date) -> str:
    """A date as DICOM writes it."""
    return day.strftime("%Y%m%d")


def hospital(seed: int = 20, patients: int = PATIENTS) -> list[dict[str, Any]]:
    """The series of the hospital, one line each; None is an attribute that is not there, a list several values."""
    chance = random.Random(seed)
    lines: list[dict[str, Any]] = []
    accessions = [f"A{number:06d}" for number in range(patients * 3)]
    for number in range(patients):
        day = event = date(2011, 1, 1) + timedelta(chance.randrange(4000))
        if chance.random() < 0.05:
            day = event = date(chance.choice((2012, 2013, 2016, 2019)), *chance.choice(((2, 28), (3, 1))))
        person = {"PatientID": _patient_id(number) if number % 97 else "", "PatientBirthDate": _birth(chance, event)}
        offsets = chance.sample(OFFSETS, k=chance.choice((1, 1, 2, 2, 3, 4, 5)))
        accession = chance.choice(accessions)
        for offset in offsets:
            if chance.random() > 0.25:
                accession = chance.choice((*[chance.choice(accessions)] * 19, ""))
            # The others are of the day of the one before.
            if chance.random() > 0.15:
                day = event + timedelta(offset)
            lines += _study(chance, person, day, accession)
    return lines


def _patient_id(number: int) -> str:
    return f"P{number:05d}" if number % 50 else f"{number:05d}"


def _birth(chance: random.Random, event: date) -> str | None:
    """Around a birthday of full years at the event; now and then on a leap day, not there, or no date."""
    kind = chance.random()
    if kind < 0.1:
        return chance.choice(BLANK)
    if kind < 0.13:
        return chance.choice(("19800230", "UNKNOWN", "1975"))
    if kind < 0.2:
        return f"{chance.choice((1948, 1972, 1996, 2000))}0229"
    years = chance.choice((18, 18, 18, 65, 65, 40, 70, 5))
    return text_of(event - timedelta(days=round(years * 365.2425) + chance.randrange(-35, 36)))


def _study(chance: random.Random, person: dict[str, Any], day: date, accession: str) -> list[dict[str, Any]]:
    written: str | None = text_of(day)
    if chance.random() < 0.05:
        written = chance.choice(("", None, "20150230", day.strftime("%Y.%m.%d"), day.isoformat()))
    study = person | {
        "StudyInstanceUID": _uid(chance),
        "StudyDate": written,
        "StudyTime": chance.choice(TIMES),
        "AccessionNumber": accession,
        "StudyDescription": chance.choice(STUDIES),
    }
    age = chance.choice(AGES)
    maker, model = chance.choice(MAKERS)
    lines = []
    for number in range(1, chance.choice((1, 1, 2, 2, 3, 4)) + 1):
        modality = chance.choice(MODALITIES)
        image = modality in ("CT", "MR")
        lines.append(
            study
            | {
                "PatientAge": age if chance.random() < 0.9 else chance.choice(AGES),
                "SeriesInstanceUID": _uid(chance),
                "SeriesDate": written if chance.random() < 0.8 else chance.choice(BLANK),
                "SeriesTime": chance.choice(("081500", "102030", "102030.0", "", None)),
                "SeriesNumber": chance.choice((str(number),) * 8 + ("1", "10", "", None)),
                "Modality": modality,
                "SeriesDescription": chance.choice(SERIES),
                "BodyPartExamined": chance.choice(PARTS),
                "ProtocolName": chance.choice(PROTOCOLS),
                "ImageType": chance.choice(IMAGE_TYPES) if image else chance.choice(BLANK),
                "SliceThickness": chance.choice(THICKNESSES) if image else None,
                "ConvolutionKernel": chance.choice(KERNELS) if modality == "CT" else None,
                "ContrastBolusAgent": chance.choice(AGENTS),
                "Manufacturer": maker,
                "ManufacturerModelName": model,
                "StationName": chance.choice(STATIONS),
                "NumberOfSeriesRelatedInstances": str(chance.choice((1,) * 9 + (2, 2, 3))),
            }
        )
    for line in lines:
        if line["Modality"] in ("CT", "MR") and line["NumberOfSeriesRelatedInstances"] != "1" and chance.random() < 0.5:
            # Reformats and scouts in one series: what its images tell differs.
            line["SliceThickness"] = chance.sample(THICKNESSES[:9], k=2)
            line["ImageType"] = chance.sample(IMAGE_TYPES[:5], k=2)
    return lines


def _uid(chance: random.Random) -> str:
    """Of many lengths, so that the order as text is not that of numbers."""
    return f"2.25.{chance.randrange(1, 10 ** chance.randrange(9, 38))}"


def files(lines: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    """The instances as DICOM files, without pixels."""
    for line in lines:
        dataset = Dataset()
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.SOPClassUID = CTImageStorage
        dataset.PatientName = "Generated^Patient"
        for keyword in COLUMNS[:-1]:
            if line[keyword] is not None and not _by_image(line, keyword):
                setattr(dataset, keyword, line[keyword])
        for number in range(1, int(line["NumberOfSeriesRelatedInstances"]) + 1):
            dataset.InstanceNumber = str(number)
            for keyword in ("SliceThickness", "ImageType"):
                if several := _by_image(line, keyword):
                    setattr(dataset, keyword, several[number % 2])
            dataset.SOPInstanceUID = f"{line['SeriesInstanceUID']}.{number}"
            dataset.file_meta = meta = FileMetaDataset()
            meta.MediaStorageSOPClassUID = CTImageStorage
            meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            meta.TransferSyntaxUID = ExplicitVRLittleEndian
            stream = BytesIO()
            dcmwrite(stream, dataset, enforce_file_format=True)
            yield stream.getvalue()


def _by_image(line: dict[str, Any], keyword: str) -> list[Any]:
    """What the images of a series tell in turn, where it is not the same."""
    value = line[keyword]
    several = value.split("\\") if keyword == "SliceThickness" and isinstance(value, str) else value
    nested = keyword == "ImageType" and isinstance(value, list) and isinstance(value[0], list)
    return list(several) if nested or (keyword == "SliceThickness" and len(plain(value).split("\\")) > 1) else []


def load(archive: Orthanc, lines: list[dict[str, Any]], at_once: int = 500) -> int:
    """Hand the hospital to a running Orthanc by its REST interface; returns the number of instances."""

    def send(bundle: list[bytes]) -> int:
        stream = BytesIO()
        with zipfile.ZipFile(stream, "w") as packed:
            for number, content in enumerate(bundle):
                packed.writestr(f"{number}.dcm", content)
        answers = json.loads(_rest(archive, "POST", "/instances", stream.getvalue()))
        return sum(answer["Status"] == "Success" for answer in answers)

    content = files(lines)
    with ThreadPoolExecutor(1) as sender, warnings.catch_warnings():
        # What real archives hold is not always what the standard allows; each such value would be a warning.
        warnings.simplefilter("ignore")
        # The next bundle is written while the archive takes this one.
        bundles = iter(lambda: list(islice(content, at_once)), [])
        return sum(sent.result() for sent in [sender.submit(send, bundle) for bundle in bundles])


def held(archive: Orthanc) -> dict[str, dict[str, str]]:
    """By Series Instance UID what the archive says itself, over REST, of each series that it holds."""
    studies = {one["ID"]: one for one in json.loads(_rest(archive, "GET", "/studies?expand"))}
    return {
        one["MainDicomTags"]["SeriesInstanceUID"]: {
            **studies[one["ParentStudy"]]["PatientMainDicomTags"],
            **studies[one["ParentStudy"]]["MainDicomTags"],
            **one["MainDicomTags"],
            "NumberOfSeriesRelatedInstances": str(len(one["Instances"])),
        }
        for one in json.loads(_rest(archive, "GET", "/series?expand"))
    }


def _rest(archive: Orthanc, method: str, path: str, body: bytes | None = None) -> bytes:
    with closing(HTTPConnection("127.0.0.1", archive.http_port, timeout=300)) as connection:
        connection.request(method, path, body)
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, f"{path}: {answer.status} {content[:300]!r}"
        return content


def plain(value: Any) -> str:
    """A value as the archive tells it, without the blanks that DICOM's padding may eat; all values of its images."""
    return "\\".join(map(plain, value)) if isinstance(value, list) else str(value or "").strip(" ")


def listing(lines: list[dict[str, Any]]) -> pd.DataFrame:
    """The archive's full listing, as `tests.support.cohort_oracle` reads it."""
    return pd.DataFrame([{keyword: plain(line[keyword]) for keyword in COLUMNS} for line in lines])
