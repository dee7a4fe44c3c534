"""The converter is a foreign program: it may crash, hang, write half of it, or nothing, and report success."""

from __future__ import annotations

import gzip
import json
import os
import re
import stat
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from pacsifier_ops.base.errors import Cancelled, ConfigError
from pacsifier_ops.convert import converter, steps
from pacsifier_ops.convert.converter import ConverterFailed, Said, kind_of
from pacsifier_ops.convert.request import ConvertRequest
from pacsifier_ops.handover.account import ToolAccount
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.study.cohort import search_of
from tests.support import scans
from tests.support.processes import eventually, living
from tests.support.scans import converted, deidentified, names

#: Puts a program with these lines at the place of dcm2niix, and returns its path.
Fake = Callable[[str], Path]

#: A program at the place of dcm2niix. It makes an image as told by its last lines.
_HEAD = """\
#!{python}
import json, os, signal, struct, subprocess, sys, time
if "--version" in sys.argv:
    print("dcm2niiX version v9.9.20990101"); sys.exit(3)
out, inbox = sys.argv[sys.argv.index("-o") + 1], sys.argv[-1]
files = sorted(os.listdir(inbox))
def image(name="image", n=4, cut=0, more=b"", descrip=b"", extension=False):
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, n, n, n, 1, 1, 1, 1)
    struct.pack_into("<hh", head, 70, 4, 16)
    struct.pack_into("<f", head, 108, 352)
    head[148:148 + len(descrip)] = descrip
    head[344:348] = b"n+1\\0"
    if extension: head[348] = 1
    data = bytes(head) + bytes(max(0, 2 * n ** 3)) + more
    open(f"{{out}}/{{name}}.nii", "wb").write(data[:len(data) - cut])
def say(used=len(files), found=len(files)):
    print(f"Found {{found}} DICOM file(s)")
    print(f"Convert {{used}} DICOM as {{out}}/image (4x4x4x1)", flush=True)
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    def put(lines: str) -> Path:
        path = tmp_path / "dcm2niix"
        path.write_text(_HEAD.format(python=sys.executable) + textwrap.dedent(lines), encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(converter, "program", lambda: str(path))
        return path

    return put


FAILURES = {
    "writes nothing, with success": ("say()", "wrote no image"),
    "crashes": ("image(); say(); os.kill(os.getpid(), signal.SIGSEGV)", r"crashed \(signal 11\)"),
    "is killed, as by lack of memory": (
        "image(); say(); os.kill(os.getpid(), signal.SIGKILL)",
        r"crashed \(signal 9\)",
    ),
    "writes half an image": ("image(cut=17); say()", "not whole"),
    "writes half a header": ("open(out + '/image.nii', 'wb').write(bytes(100)); say()", "no NIfTI file"),
    "writes something else": ("open(out + '/image.nii', 'wb').write(os.urandom(4000)); say()", "no NIfTI file"),
    "writes more than an image": ("image(more=b'Wurzelbacher'); say()", "more bytes"),
    "writes an extension": ("image(extension=True); say()", "an extension"),
    "finds no image": ("sys.exit(2)", "code 2: it found no image"),
    "finds a damaged file": ("image(); say(); sys.exit(4)", "code 4: it found a damaged file"),
    "has no space": ("image(cut=17); sys.exit(7)", "code 7: it could not write"),
    "has a code of its own": ("image(); say(); sys.exit(77)", "code 77"),
    "makes a link": ("os.symlink('/etc/passwd', out + '/image.nii'); say()", "something else than an image"),
    "gives a name that is no text": ("image('image_\\udcff'); say()", "a name that cannot be used"),
    "gives a name of two lines": ("image('image_a\\nb'); say()", "a name that cannot be used"),
    "gives a name that is too long": ("image('image_' + 'x' * 240); say()", "a name that cannot be used"),
    "writes digits with something between": (
        "image(); open(out + '/image.bval', 'w').write('0 12_3456'); say()",
        "diffusion values",
    ),
    "counts slices in 16 bits, and comes to few": ("image(); say(2**16 + 4)", "65,540 images are more than"),
    "counts slices in 16 bits, and comes below none": ("image(n=-4); say(2**16 - 4)", "65,532 images are more than"),
    "remarks without end": ("while True: print('x' * 10000)", "without end"),
    "writes words as numbers": (
        "image(); open(out + '/image.bval', 'w').write('0 1000 Wurzelbacher'); say()",
        "diffusion values",
    ),
}


@pytest.mark.parametrize("lines, why", FAILURES.values(), ids=FAILURES)
def test_a_series_that_it_cannot_convert_is_told_and_nothing_of_it_is_published(
    lines: str,
    why: str,
    fake: Fake,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = deidentified(scans.ct(n_images=3), tmp_path)
    monkeypatch.setattr(converter, "_TOO_MUCH", 1 << 23)
    fake(lines)
    _, account = converted(source, tmp_path / "nii")
    assert account.verdict == INCOMPLETE and account.counts["series failed"] == 1
    ((_, reason),) = account.problems
    assert re.search(why, reason), reason
    assert names(tmp_path / "nii") == [] and not list((tmp_path / "nii" / ".pacsifier" / "converted").glob("*"))
    fake("image(); say()")  # it was mended
    _, account = converted(source, tmp_path / "nii")
    assert account.verdict == COMPLETE and len(names(tmp_path / "nii")) == 2


def test_one_that_fails_does_not_stop_the_others(fake: Fake, tmp_path: Path) -> None:
    source = deidentified([*scans.ct(n_images=3), *scans.t1w(n_images=4), *scans.ct(9, "Abdomen", 5)], tmp_path)
    fake("""
        if len(files) == 4: os.abort()
        image(); say()
    """)
    _, account = converted(source, tmp_path / "nii")
    assert account.counts["series converted"] == 2 and account.counts["series failed"] == 1


def test_one_that_hangs_is_ended_with_all_that_it_has_started(fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    path = fake(f"""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open({str(tmp_path / "pids")!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
        time.sleep(600)
    """)
    converter._GRACE, grace = 0.3, converter._GRACE
    try:
        with pytest.raises(ConverterFailed, match="time limit"):
            converter.convert(tmp_path / "in", tmp_path / "out", tmp_path / "home", 4.0, lambda: False, str(path))
    finally:
        converter._GRACE = grace
    _are_gone(tmp_path / "pids")


def _are_gone(path: Path) -> None:
    pids = [int(pid) for pid in path.read_text().split()]
    eventually(lambda: not living(pids))


def test_one_that_is_cancelled_is_ended(fake: Fake, tmp_path: Path) -> None:
    source = deidentified(scans.ct(n_images=3), tmp_path)
    fake(f"""
        open({str(tmp_path / "pids")!r}, "w").write(str(os.getpid()))
        time.sleep(600)
    """)
    run = Run.fresh()
    (unit,) = steps.prepare(run, ConvertRequest(source, tmp_path / "nii"))

    def cancelled() -> bool:
        return (tmp_path / "pids").exists() and (tmp_path / "pids").read_text() != ""

    with pytest.raises(Cancelled):
        steps.convert(run, unit, cancelled)
    _are_gone(tmp_path / "pids")
    assert not list((tmp_path / "nii" / ".pacsifier" / "incoming").glob("*"))


def test_what_it_did_not_use_is_told(fake: Fake, tmp_path: Path) -> None:
    """Without times, it takes images for duplicates, and leaves them out."""
    source = deidentified(scans.ct(n_images=5), tmp_path)
    fake("""
        print("2 images have identical time, series, acquisition and instance values. DUPLICATES REMOVED.")
        image(); say(used=3)
    """)
    _, account = converted(source, tmp_path / "nii")
    assert account.verdict == INCOMPLETE and account.counts["objects not used"] == 2
    ((_, reason),) = account.problems
    assert "has not used 2 objects of 5" in reason
    assert "images that it took for duplicates" in account.done[0][1]


def test_what_it_used_is_found_after_a_million_remarks(fake: Fake, tmp_path: Path) -> None:
    source = deidentified(scans.ct(n_images=3), tmp_path)
    fake("say(0); [print('Warning: x' + 'y' * 1000) for _ in range(9000)]; image(); say()")
    assert converted(source, tmp_path / "nii")[1].verdict == COMPLETE


def test_what_it_puts_where_we_work_is_in_no_way(fake: Fake, tmp_path: Path) -> None:
    source = deidentified(scans.ct(n_images=3), tmp_path)
    fake("os.makedirs(out + '/../kept', exist_ok=True); open(out + '/../kept/image.nii.gz', 'w'); image(); say()")
    assert converted(source, tmp_path / "nii")[1].verdict == COMPLETE


def test_what_it_writes_beside_the_image_goes_nowhere(fake: Fake, tmp_path: Path) -> None:
    source = deidentified(scans.ct(n_images=3), tmp_path)
    fake("""
        image(descrip=b"TE=3;Time=101500.000;Wurzelbacher"); say()
        name = "Wurzelbacher"
        said = {"PatientName": name, "EchoTime": 0.003, "FlipAngle": name, "PatientPosition": name}
        json.dump({**said, "MRAcquisitionType": f"{name} K."}, open(out + "/image.json", "w"))
        open(out + "/Wurzelbacher.txt", "w").write("Wurzelbacher")
        open(os.environ["HOME"] + "/Wurzelbacher.ini", "w").write("Wurzelbacher")
        assert set(os.environ) <= {"PATH", "HOME", "TMPDIR", "LC_ALL", "LC_CTYPE"}, list(os.environ)
    """)
    _, account = converted(source, tmp_path / "nii")
    assert account.verdict == COMPLETE
    for name in names(tmp_path / "nii"):
        data = (tmp_path / "nii" / name).read_bytes()
        assert b"Wurzelbacher" not in (gzip.decompress(data) if name.endswith(".gz") else data) and "Wurz" not in name
    sidecar = json.loads(next((tmp_path / "nii").rglob("00001*.json")).read_text())
    assert sidecar["EchoTime"] == 0.003 and sidecar["PatientPosition"] == "HFS" and "FlipAngle" not in sidecar


def test_one_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converter, "program", lambda: str(tmp_path / "none"))
    source = deidentified(scans.ct(n_images=3), tmp_path)
    with pytest.raises(ConfigError, match="does not start"):
        converted(source, tmp_path / "nii")


def test_another_version_converts_anew(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = deidentified(scans.ct(n_images=3), tmp_path)
    with monkeypatch.context() as before:
        before.setattr(converter, "version", lambda path: "1")
        converted(source, tmp_path / "nii")
    _, account = converted(source, tmp_path / "nii")
    assert account.counts["of these new"] == 1


def test_its_remarks_are_told_by_kind_alone() -> None:
    text = """\
Found 24 DICOM file(s)
Warning: Note these images have gantry tilt of 13.5 degrees (manufacturer ID = 2)
Slices not stacked: protocol name varies 'Wurzelbacher' != 'K'
Volumes stacked despite varying series number (use '-m o' to turn off merging).
Warning: Interslice distance varies in this volume (incompatible with NIfTI format).
Unable to equalize slice distances: slice order not consistently ascending.
Slice positions repeated, but slices (40) not divisible by repeats (3): converting only complete volumes.
Error: Unable to decode 16-bit images with Transfer Syntax 1.2.840.10008.1.2.4.51, decompress with dcmdjpg or gdcmconv
Warning: something that nobody has seen before: Wurzelbacher
Warning: fieldmapping.Convert 20 DICOM as /x/out/image_e1 (4x4x4x1)
Convert 4 DICOM as /x/out/image (4x4x4x1)
"""
    said = Said.of(text, 0)
    assert (said.found, said.used) == (24, 24)
    assert said.warnings.keys() == {
        "gantry tilt",
        "several images of one series",
        "images that differ and were stacked",
        "uneven slice distances",
        "images that it left out",
        "compression of the pixels",
        "other remarks",
        "kind of the field map",
    }
    assert kind_of("Conversion required 0.01 seconds") is None


def test_files_are_given_in_the_order_of_the_instances(fake: Fake, tmp_path: Path) -> None:
    from pydicom import dcmread

    images = scans.ct(n_images=4)
    for place, image in enumerate(images):
        image.InstanceNumber = 10 - place
    source = deidentified(images, tmp_path)
    keep = tmp_path / "seen"
    fake(f"""
        import shutil
        shutil.copytree(inbox, {str(keep)!r})
        image(); say()
    """)
    converted(source, tmp_path / "nii")
    assert [dcmread(path).InstanceNumber for path in sorted(keep.iterdir())] == [7, 8, 9, 10]
    assert os.listdir(keep) and all(path.name[:-4].isdigit() for path in keep.iterdir())


def _account(run: Run) -> ToolAccount:
    return steps.report(run)


def test_the_folder_of_a_killed_worker_is_cleaned(tmp_path: Path) -> None:
    source = deidentified(scans.ct(n_images=3), tmp_path)
    left = tmp_path / "nii"
    converted(source, left)
    (left / ".pacsifier" / "incoming" / "dead").mkdir(parents=True)
    (left / ".pacsifier" / "incoming" / "dead" / "image.nii").touch()
    run = Run.fresh()
    steps.prepare(run, ConvertRequest(source, left))
    steps.assemble(run, search_of(run, source))
    assert not list((left / ".pacsifier" / "incoming").iterdir())
    assert _account(run).verdict == COMPLETE
