"""De-identification beside other tools, on tmpfs: images with the header of a scanner, each tool as whole commands."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

from pydicom import dcmread
from pydicom.misc import is_dicom

from bench.timing import ROOT, Cohort, Tool, Work, installed, run

#: In memory where there is such a folder, so that no disk is measured.
MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
#: Reads the first folder, writes the second one, has the third one for whatever else it needs.
Program = Callable[[Path, Path, Path], None]


class Scanned(Cohort):
    """Images with the header of a scanner: pydicom's small CT image, with more pixels."""

    def write(self, folder: Path) -> list[Path]:
        """Write the files of the cohort."""
        from pydicom.data import get_testdata_file
        from pydicom.uid import generate_uid

        image = dcmread(str(get_testdata_file("CT_small.dcm")))
        image.PatientID, image.Rows, image.Columns = self.patient, self.pixels, self.pixels
        image.PatientBirthDate = "19500101"  # PACSIFIER ends without one
        pixels = random.Random(1).randbytes(2 * self.pixels**2)
        paths = []
        for series in range(1, self.series + 1):
            image.SeriesNumber, image.SeriesInstanceUID = series, generate_uid()
            (folder / str(series)).mkdir(parents=True)
            for number in range(1, self.images + 1):
                image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
                image.InstanceNumber, image.SliceLocation = number, f"{0.625 * number:.4f}"
                image.ImagePositionPatient = ["-158.135803", "-179.035797", f"{0.625 * number:.4f}"]
                image.AcquisitionTime = image.ContentTime = f"{112000 + number // 50:06d}.{number % 50:02d}"
                image.PixelData = pixels[2 * number :] + pixels[: 2 * number]
                paths.append(folder / str(series) / f"{number:05d}.dcm")
                image.save_as(paths[-1])
        return paths


def command(*options: str) -> Program:
    """Our command: plan, books and report as well, and contact sheets unless it is told otherwise."""

    def call(folder: Path, out: Path, scratch: Path) -> None:
        words = [sys.executable, "-m", "pacsifier_ops.cli.anonymize", "-d", str(folder), "-o", str(out), "-i"]
        words += ["--profile", "default", "--accept_incomplete", *options]
        run(words, scratch, PACSIFIER_STATE_ROOT=str(scratch / "state"), PYTHONPATH=str(ROOT))

    return call


def copied(folder: Path, out: Path, _: Path) -> None:
    run(["cp", "-r", str(folder), str(out / "copy")], out)


def pacsifier(folder: Path, out: Path, scratch: Path) -> None:
    """PACSIFIER 1.0.0, private tags removed, dates fuzzed."""
    ids = scratch / "new_ids.json"
    ids.write_text(json.dumps({path.name: f"P{crc32(path.name.encode())}" for path in folder.iterdir()}))
    program = installed("pacsifier==1.0.0") / "pacsifier-anonymize"
    run([str(program), "-d", str(folder), "-o", str(out), "-p", "-a", "-n", str(ids)], scratch)


def dicognito(folder: Path, out: Path, scratch: Path) -> None:
    """dicognito as it is, with a seed of its own; its console script cannot be started."""
    python = installed("dicognito==0.19.0") / "python"
    run([str(python), "-m", "dicognito", "--quiet", "--seed", "bench", "-o", str(out), str(folder)], scratch)


def dicom_anonymizer(folder: Path, out: Path, scratch: Path) -> None:
    """dicom-anonymizer with its default, which removes private tags; it takes flat folders."""
    flat = Path(tempfile.mkdtemp(dir=scratch))
    for number, path in enumerate(sorted(folder.rglob("*.dcm"))):
        os.link(path, flat / f"{number}.dcm")
    run([str(installed("dicom-anonymizer==2.1.0") / "dicom-anonymizer"), str(flat), str(out)], scratch)


def gdcmanon(folder: Path, out: Path, scratch: Path) -> None:
    """gdcmanon -e, the Basic Application Level Confidentiality Profile."""
    certificate, key = scratch / "certificate.pem", scratch / "key.pem"
    if not certificate.exists():
        _certificate(certificate, key)
    program = Path(sys.executable).parent / "gdcmanon"
    run([str(program), "-e", "-c", str(certificate), "-r", "-i", str(folder), "-o", str(out)], scratch)


def _certificate(certificate: Path, key: Path) -> None:
    from pacsifier_ops.embedded.authority import Authority

    identity = Authority(certificate.parent, "bench").issue("bench")
    shutil.copy(identity.certificate, certificate)
    shutil.copy(identity.key, key)


#: Programs that other people wrote, and how they are called.
PEERS: dict[str, Program] = {
    "gdcmanon (C++)": gdcmanon,
    "dicom-anonymizer 2.1.0": dicom_anonymizer,
    "dicognito 0.19.0": dicognito,
    "PACSIFIER 1.0.0": pacsifier,
}


def _tool(program: Program, folder: Path) -> Tool:
    def call(place: Path, _: Any) -> None:
        out, scratch = place / "out", place / "scratch"
        out.mkdir(exist_ok=True)
        scratch.mkdir(exist_ok=True)
        program(folder, out, scratch)

    return call


def works(folder: Path, quick: bool) -> Iterator[Work]:
    """Yield the comparisons; if `quick`, a fifth of the images, and neither contact sheets nor the slow tools."""
    # Ours needs the tree of an extraction to call a patient by its folder; to the others it is a folder.
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="bench-") as name:
        series = 2 if quick else 10
        cohort = Scanned(f"{series} series × 200 images of 512×512", "REAL", series, 200, 512)
        tree = Path(name) / "in"
        cohort.write(tree / f"sub-{cohort.patient}" / "ses-20180102101500")
        plain = command("--no_contact_sheets")
        programs = {"ours": plain, "gdcmanon (C++)": gdcmanon, "cp": copied}
        if not quick:
            programs |= {"ours, with contact sheets": command(), **PEERS}

        def exact(place: Path, _: Any) -> bool:
            """Whether there is an image for each one, and no other; some tools give their files other names."""
            files = [path for path in (place / "out").rglob("*") if path.is_file() and is_dicom(path)]
            uids = {str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID) for path in files}
            return len(files) == len(uids) == cohort.size

        tools = {name: _tool(program, tree) for name, program in programs.items()}
        slow = frozenset(PEERS) - {"gdcmanon (C++)"}
        yield Work(f"de-identify {cohort.name}", cohort.size, tools, exact, once=slow, place=Path(name))

        if not quick:
            on_disk = {name: tools[name] for name in ("ours", "gdcmanon (C++)", "cp")}
            yield Work(f"de-identify {cohort.name}, results on a disk", cohort.size, on_disk, exact)

        @contextmanager
        def before(place: Path) -> Iterator[None]:
            tools["ours"](place, None)
            yield

        yield Work(
            f"de-identify {cohort.name} again, nothing new",
            cohort.size,
            {"ours": tools["ours"], "cp": lambda place, _: copied(tree, place / "scratch", place)},
            exact,
            before,
            place=Path(name),
        )
