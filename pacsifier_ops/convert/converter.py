"""The foreign program that converts: dcm2niix, started once per series as a process of its own.

It may crash, hang, write half a file, or write nothing and report success. So nothing that it says is taken for true
that can be counted or measured, and its texts, which may quote values and paths, are only told by kind.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from pacsifier_ops.base.errors import Cancelled, ConfigError
from pacsifier_ops.base.files import private_folder

#: Name of all images; the converter adds what tells them apart, such as `_e2`.
IMAGE = "image"

#: Exit codes after which its images are looked at: success, an undefined error, some files unusable, volumes missing.
#: Of its other codes, none comes with images (`nii_dicom.h` of dcm2niix).
_LOOKED_AT = (0, 1, 8, 10)
_CODES = {
    2: "it found no image in the files",
    4: "it found a damaged file",
    6: "it found no folder for the images",
    7: "it could not write",
}

#: Kinds of what it remarks, by a text in its line. The first that fits holds.
_KINDS: Sequence[tuple[str, str]] = (
    (r"only able to correct gantry|tilt correction skipped|resampled", "gantry tilt that it did not correct"),
    (r"gantry tilt", "gantry tilt"),
    (r"interslice distance|equidistant|equalize slice|slice distance", "uneven slice distances"),
    (r"duplicates removed|identical time|naming conflict", "images that it took for duplicates"),
    (r"converting only|will be removed|slices skipped|ignoring|adc excluded", "images that it left out"),
    (r"missing (images|dicoms)|not divisible|expected \d+ (volumes|locations|slices)", "missing images"),
    (r"not stacked|independent volumes", "several images of one series"),
    (r"stacked despite", "images that differ and were stacked"),
    (r"order is not spatial|sorted|order as defined|reorder|re-order|spatial position", "order of the slices"),
    (r"seconds between volumes|volume number", "times of the volumes"),
    (r"slice ?tim|slice order|repetition time|midnight", "times of the slices"),
    (r"bval|bvec|dti|diffusion|b=0|gradients|adc", "diffusion"),
    (r"transfer syntax|decode|fragments", "compression of the pixels"),
    (r"spatial matrix|non-?spatial|orientation|slice direction|mirrored|single slice|quadruped", "orientation"),
    (r"fieldmap|fmap", "kind of the field map"),
    (r"patient position|manufacturer|protocol|vendor|csa|instance number \(0020,0013\) not found", "technique"),
    (r"too large|huge", "size"),
)
_REMARK = re.compile(r"^\s*(warning|error)\b", re.IGNORECASE)
_FOUND = re.compile(r"^Found (\d+) DICOM", re.MULTILINE)
#: It need not begin a line: not all remarks end theirs.
_USED = re.compile(rf"Convert (\d+) DICOM as [^\r\n]*/out/{IMAGE}")
#: Remarks that are not called so.
_SILENT = re.compile(
    r"duplicates removed|stacked|missing images|converting only|will be removed|skipped|ignoring|only able",
    re.IGNORECASE,
)
_VERSION = re.compile(r"\bv(\d+\.\d+\.\d+\w*)")

#: Bytes of its output that are read from its beginning and from its end: each file may cause a line.
_MOST_SAID = 1 << 22
#: Bytes of its output with which it is ended: it would fill the disk.
_TOO_MUCH = 1 << 28
#: Seconds between two looks at it, and between the signals that end it.
_LOOK, _GRACE = 0.05, 5.0


class ConverterFailed(Exception):
    """The converter gave nothing for a series; the text says why, without values."""


@dataclass
class Said:
    """What the converter said.

    Attributes:
        found: number of files that it took for DICOM.
        used: number of files that it has put into images, as far as it says so.
        code: its exit code.
        warnings: remarks by kind, without values.
        text: all that it said, which may hold values.
    """

    found: int
    used: int
    code: int
    warnings: dict[str, int] = field(default_factory=dict)
    text: str = ""

    @classmethod
    def of(cls, text: str, code: int) -> Said:
        """Return what a text says."""
        found = max((int(n) for n in _FOUND.findall(text)), default=0)
        kinds: Counter[str] = Counter()
        for line, times in Counter(text.splitlines()).items():  # many a remark is made for every image
            if kind := kind_of(line):
                kinds[kind] += times
        if code:
            kinds[f"exit code {code}"] = 1
        return cls(found, sum(int(n) for n in _USED.findall(text)), code, dict(kinds), text)


def kind_of(line: str) -> str | None:
    """Return the kind of a remark; None for a line that is none. A kind is from a fixed list, and holds no value."""
    if not _REMARK.match(line) and not _SILENT.search(line):
        return None
    for pattern, kind in _KINDS:
        if re.search(pattern, line, re.IGNORECASE):
            return kind
    return "other remarks"


def program() -> str:
    """Return the path of the converter that comes with the package `dcm2niix`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import dcm2niix  # type: ignore[import-untyped]
    except ImportError:
        raise ConfigError("dcm2niix is not installed; install this package with its requirements") from None
    return str(dcm2niix.bin)


@cache
def version(path: str) -> str:
    """Return the version of the converter.

    Args:
        path: see `program`.

    Raises:
        ConfigError: it does not start.
    """
    try:
        text = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        raise ConfigError("dcm2niix does not start on this machine; install its package anew") from None
    found = _VERSION.search(text)
    return found[1] if found else "unknown"


def convert(
    inbox: Path, outbox: Path, home: Path, seconds: float, cancelled: Callable[[], bool], path: str = ""
) -> Said:
    """Convert the files of one series.

    Args:
        inbox: flat folder with exactly these files.
        outbox: empty folder for the images.
        home: empty folder for whatever it writes beside.
        seconds: time limit.
        cancelled: asked again and again; True ends it.
        path: the converter; by itself that of `program`.

    Returns:
        What it said. Whether there are images is for the caller to see.

    Raises:
        ConverterFailed: it crashed, hung, did not start, or ended with a code that means failure.
        Cancelled: `cancelled` said so. It has ended by then.
    """
    command = [path or program(), *("-g", "i"), *("-b", "y"), *("-ba", "y"), *("-z", "n"), *("-f", IMAGE)]
    command += [*("-d", "0"), *("-w", "2"), *("-o", str(outbox)), str(inbox)]
    private_folder(home)
    said = home / "said.txt"
    # Its defaults file, its temporary files and its language are not those of whoever runs us.
    surroundings = {"PATH": os.environ.get("PATH", ""), "HOME": str(home), "TMPDIR": str(home), "LC_ALL": "C"}
    with said.open("wb") as stream:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=home,
                env=surroundings,
                start_new_session=True,
            )
        except OSError:
            raise ConverterFailed("the converter did not start") from None
        try:
            _limit(process.pid, seconds)
            _wait(process, said, seconds, cancelled)
        finally:
            _end(process)
    text = _read(said)
    code = process.returncode
    if code < 0:
        raise ConverterFailed(f"the converter crashed (signal {-code})")
    if code not in _LOOKED_AT:
        raise ConverterFailed(
            f"the converter failed with code {code}" + (f": {_CODES[code]}" if code in _CODES else "")
        )
    return Said.of(text, code)


def _limit(pid: int, seconds: float) -> None:
    """Set limits that hold also if we are killed: of its computing time, and no memory image with pixels in it."""
    with suppress(OSError, ValueError):  # it may have ended already
        resource.prlimit(pid, resource.RLIMIT_CPU, (int(seconds) * 4 + 60, int(seconds) * 4 + 60))
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))


def _wait(process: subprocess.Popen[bytes], said: Path, seconds: float, cancelled: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while process.poll() is None:
        if cancelled():
            raise Cancelled("stopped on request")
        if time.monotonic() > until:
            raise ConverterFailed("the converter did not end within the time limit")
        if said.exists() and said.stat().st_size > _TOO_MUCH:
            raise ConverterFailed("the converter remarked without end")
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the converter and what it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            break
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # children that outlive it


def _read(path: Path) -> str:
    with path.open("rb") as stream:
        said = stream.read(_MOST_SAID)
        if (size := stream.seek(0, 2)) > _MOST_SAID:  # it tells in the end what it has used
            stream.seek(max(_MOST_SAID, size - _MOST_SAID))
            said += b"\n" + stream.read(_MOST_SAID)
        return said.decode("utf-8", "replace")
