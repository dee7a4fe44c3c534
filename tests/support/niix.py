"""What dcm2niix makes of a folder of images, to be compared before and after de-identification."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Fields of sidecars that tell who, where, when or in whose words: they need not be the same.
TOLD = frozenset(
    re.findall(
        r"\w+",
        """AccessionNumber AcquisitionDateTime BodyPart BodyPartExamined ConsistencyInfo ConversionSoftware
    ConversionSoftwareVersion DeidentificationMethod DeidentificationMethodCodeSequence DeviceSerialNumber
    FmriExternalInfo FrameOfReferenceUID ImageComments InstanceCreationDate InstitutionAddress InstitutionName
    InstitutionalDepartmentName OperatorsName PatientBirthDate PatientID PatientName PatientAge PatientSize
    PatientWeight PatientSex PerformedStationName PerformingPhysicianName ProcedureStepDescription ProtocolName
    PulseSequenceDetails ReferringPhysicianName SeriesDescription SeriesInstanceUID StationName
    StudyDescription StudyID StudyInstanceUID WipMemBlock BidsGuess""",
    )
)
#: Bytes of the header that hold such text: description, name of another file, name of the intent.
_TEXT = ((148, 252), (328, 344))


@dataclass
class Made:
    """What became of the series of a folder.

    Attributes:
        images: header without text, image, and vectors, by name of the file.
        sidecars: fields by name.
        log: what the program said.
    """

    images: dict[str, bytes] = field(default_factory=dict)
    sidecars: dict[str, dict[str, Any]] = field(default_factory=dict)
    log: str = ""


def program() -> str:
    """dcm2niix, which `requirements-dev.txt` names."""
    found = shutil.which("dcm2niix", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    assert found, "dcm2niix is missing: make setup-dev installs it"
    return found


def made(folder: Path, out: Path) -> Made:
    """Convert a folder; files are called by number, not by words."""
    out.mkdir(parents=True)
    run = subprocess.run(
        [program(), "-f", "%s", "-z", "n", "-b", "y", "-ba", "n", "-w", "2", "-o", str(out), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    found = Made(log=run.stdout)
    for path in sorted(out.iterdir()):
        if path.suffix == ".json":
            found.sidecars[path.stem] = json.loads(path.read_text(errors="replace"))
        elif path.suffix == ".nii":
            data = bytearray(path.read_bytes())
            for begin, end in _TEXT:
                data[begin:end] = bytes(end - begin)
            found.images[path.name] = bytes(data)
        else:
            found.images[path.name] = path.read_bytes()
    return found


def differences(before: Made, after: Made) -> list[str]:
    """What is not the same, by name of the file and field."""
    found = [f"{name}: bytes" for name in sorted(before.images.keys() | after.images.keys())
             if before.images.get(name) != after.images.get(name)]  # fmt: skip
    for name, sidecar in sorted(before.sidecars.items()):
        other = after.sidecars.get(name, {})
        found += [f"{name}: {key}" for key in sorted((sidecar.keys() | other.keys()) - TOLD)
                  if sidecar.get(key) != other.get(key)]  # fmt: skip
    return found
