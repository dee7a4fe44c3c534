"""A matrix of archives against queries: its columns, and one run of the command against each.

`python -m tests.support.matrix_run` prints the tables of docs/coverage.md, and with `-v` what the run said
of each cell.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import dcmread

from pacsifier_ops.embedded.pacs import EmbeddedPacs, Faults
from tests.support import matrix
from tests.support.command import files, finish, start, write_table
from tests.support.embedded import log_of
from tests.support.matrix import NAMED, QUERIES, RIGHT, WRONG, Query
from tests.support.peers import OUR_AET, Dcmqrscp, Orthanc, Peer, Qrscp, free_port


@dataclass(frozen=True)
class Archive:
    """What answers.

    Attributes:
        config: its part of a config.json.
        held: SOP Instance UIDs that it took.
    """

    config: dict[str, Any]
    held: set[str]


@dataclass(frozen=True)
class Cell:
    """What became of one query at one archive, and what the run said of it."""

    verdict: str
    said: str


#: From a folder of its own and the files of the cohort to an archive that runs and holds them.
Column = Callable[[Path, list[Path]], AbstractContextManager[Archive]]


def of_peer(kind: Callable[..., Peer], **fields: Any) -> Column:
    """An archive of others, loaded by C-STORE."""

    @contextlib.contextmanager
    def opened(folder: Path, cohort: list[Path]) -> Iterator[Archive]:
        peer = kind(folder / "peer", **fields)
        try:
            peer.load(cohort)
            config = {"port": peer.port, "server_AET": peer.aet, "move_port": peer.receiver_port}
            yield Archive(config, uids(peer.held))
        finally:
            peer.stop()

    return opened


def with_faults(told: dict[str, Any] | None = None, **faults: Any) -> Column:
    """The embedded PACS, and what config.json is told of its faults."""

    @contextlib.contextmanager
    def opened(folder: Path, cohort: list[Path]) -> Iterator[Archive]:
        with EmbeddedPacs(faults=Faults(**faults)) as pacs:
            pacs.add(cohort)
            receiver = free_port()
            pacs.destinations[OUR_AET] = ("127.0.0.1", receiver)
            config = {"port": pacs.port, "server_AET": pacs.aet, "move_port": receiver}
            yield Archive(config | (told or {}), uids(cohort))

    return opened


#: Keys that an archive need not know (PS3.4 C.6.1.1), and some that it has to.
OPTIONAL = {"PatientBirthDate", "StudyDescription", "DeviceSerialNumber"}
NAME, DATES, OTHERS = {"PatientName"}, {"StudyDate", "StudyTime"}, {"AccessionNumber", "Modality", "SeriesNumber"}
EVERY = {"PatientID", *NAME, *DATES, *OTHERS, *OPTIONAL, "SeriesDescription", "ProtocolName", "ImageType"}
REAL: dict[str, Column] = {
    "Orthanc": of_peer(Orthanc),
    "case-sensitive": of_peer(Orthanc, options={"CaseSensitivePN": True}),
    "UTF-8": of_peer(Orthanc, options={"DefaultEncoding": "Utf8"}),
    "limits of 7": of_peer(Orthanc, options={"LimitFindResults": 7, "LimitFindInstances": 7}),
    "dcmqrscp": of_peer(Dcmqrscp),
    "qrscp": of_peer(Qrscp),
    "embedded": with_faults(),
}
#: Nobody can know: the answer looks like any other. This is what `result_limit` is for.
UNTOLD = "stops at 7 matches, without a word"
FAULTY: dict[str, Column] = {
    UNTOLD: with_faults(result_limit=7),
    "stops at 7 matches, `result_limit` 7": with_faults({"result_limit": 7}, result_limit=7),
    "stops at 7 matches, status 0xA700": with_faults(result_limit=7, result_limit_status=0xA700),
    "stops at 7 matches, status 0xFE00": with_faults(result_limit=7, result_limit_status=0xFE00),
    "no relational queries": with_faults(relational=False),
    "no IMAGE level": with_faults(image_level=False),
    "matches UIDs alone": with_faults(ignored_keys=EVERY),
    "does not match UIDs": with_faults(ignored_keys={"StudyInstanceUID", "SeriesInstanceUID"}),
    "optional keys: matched, not returned": with_faults(unreturned_keys=OPTIONAL),
    "optional keys: neither matched nor returned": with_faults(ignored_keys=OPTIONAL, unreturned_keys=OPTIONAL),
    "optional keys: not matched, returned empty": with_faults(ignored_keys=OPTIONAL, emptied_keys=OPTIONAL),
    "optional keys: holds nothing of them": with_faults(unindexed_keys=OPTIONAL),
    "names: matched, not returned": with_faults(unreturned_keys=NAME),
    "names: neither matched nor returned": with_faults(ignored_keys=NAME, unreturned_keys=NAME),
    "names: holds nothing of them": with_faults(unindexed_keys=NAME),
    "date and time: matched, returned empty": with_faults(emptied_keys=DATES),
    "date and time: not matched, returned empty": with_faults(ignored_keys=DATES, emptied_keys=DATES),
    "date and time: holds nothing of them": with_faults(unindexed_keys=DATES),
    "accession, modality, number: matched, not returned": with_faults(unreturned_keys=OTHERS),
    "accession, modality, number: neither": with_faults(ignored_keys=OTHERS, unreturned_keys=OTHERS),
    "PatientID: matched, not returned": with_faults(unreturned_keys={"PatientID"}),
    "issuer not returned": with_faults(unreturned_keys={"IssuerOfPatientID"}),
    "keys of the patient at STUDY level alone": with_faults(patient_keys_below_study=False),
    "answers in Latin-1": with_faults(answer_charset="ISO_IR 100"),
    "answers in UTF-8": with_faults(answer_charset="ISO_IR 192"),
    "answers in ASCII, other letters dropped": with_faults(answer_charset=""),
    "one study's matches are torn": with_faults(torn={matrix.uid("study john1")}),
    "one match is torn, once": with_faults(torn={matrix.uid("study john1")}, torn_times=1),
    "tells another PatientID than the files": with_faults(corrected={"PatientID": {"12": "00012"}}),
}


#: Cells that no client can get right, or name: the archive lost the letters itself when it stored the images. What is
#: left is the name that it shows and finds: `imnek^Ji` of Šimůnek^Jiří, nothing of 李^娜. docs/query-table.md says so.
LOST = {
    "Orthanc": {"UTF-8, declared ISO_IR_192"},
    "case-sensitive": {"UTF-8, declared ISO_IR_192"},
    "UTF-8": {
        *("UTF-8, declared ISO_IR_192", "GBK, not declared", "GBK, not declared, and the id"),
        *("CP1251, not declared", "Greek, not declared", "Shift_JIS, not declared"),
    },
}


def silently_wrong(name: str, found: dict[str, Cell]) -> dict[str, str]:
    """What the run says of cells that are silently wrong, and need not be."""
    lost = LOST.get(name, set())
    return {title: cell.said for title, cell in found.items() if cell.verdict == WRONG and title not in lost}


def queries_of(name: str) -> list[Query]:
    """The rows of a column: all of them, or where the archive has faults, the short list."""
    return QUERIES if name in REAL else [query for query in QUERIES if query.short]


def uids(paths: list[Path]) -> set[str]:
    """SOP Instance UIDs of files."""
    return {str(dcmread(path).SOPInstanceUID) for path in paths}


def cells(name: str, cohort: list[Path], folder: Path, state: Path) -> dict[str, Cell]:
    """Load an archive, run the command once with all queries as one table, judge each row by what it fetched.

    Args:
        folder: where all of it goes, but what the run keeps in the state root.
        state: the state root, as the environment names it.

    Raises:
        AssertionError: the run contradicts itself: its exit code, its log or its folder say otherwise than its rows.
    """
    queries = queries_of(name)
    rows, out = [query.cells for query in queries], folder / "out"
    with (REAL | FAULTY)[name](folder, cohort) as archive:
        path = folder / "config.json"
        config = {"server_address": "127.0.0.1", "AET": OUR_AET, "move_AET": "", "batch_size": 0, "batch_wait_time": 0}
        path.write_text(json.dumps(config | archive.config))
        table = write_table(folder / "table.csv", rows)
        result = finish(start(path, table, out, "--save"), out, 300).ended(0, 3)
    (path,) = state.glob("runs/*/accounts.json")
    accounts = json.loads(path.read_text(encoding="utf-8"))
    assert result.code == {"complete": 0, "incomplete": 3}[accounts["verdict"]]
    fetched: dict[str, set[str]] = {}
    for file in files(out).values():
        head = dcmread(file)
        assert head.SOPInstanceUID == file.stem
        fetched.setdefault(head.SeriesInstanceUID, set()).add(file.stem)
    assert fetched.keys() <= {series["series_uid"] for series in accounts["series"]}, "files that no row asked for"
    logged = {line["Status"] for line in log_of(out)}
    found, complete = {}, []
    for line, (query, row) in enumerate(zip(queries, accounts["rows"], strict=True), 2):
        assert row["line"] == line
        mine = [series for series in accounts["series"] if line in series["lines"]]
        states = {row["state"], *(series["state"] for series in mine)}
        complete.append(states <= {"found", "empty", "complete"})
        assert complete[-1] or states & logged, f"the log does not say that {query.title} is {states}"
        came = set().union(*(fetched.get(series["series_uid"], ()) for series in mine))
        reason = "; ".join(dict.fromkeys(filter(None, [row["reason"], *(series["reason"] for series in mine)])))
        verdict = matrix.verdict(query, came, complete[-1], reason, archive.held)
        meant = len(matrix.images(query.meant) & archive.held)
        found[query.title] = Cell(verdict, f"{'/'.join(sorted(states))}, {len(came)} of {meant}: {reason}")
    assert (accounts["verdict"] == "complete") == all(complete)
    return found


def main(names: list[str], verbose: bool) -> None:
    """Print the tables."""
    found: dict[str, dict[str, Cell]] = {}
    with tempfile.TemporaryDirectory() as folder:
        (home := Path(folder) / "cohort").mkdir()
        cohort = matrix.write(home)
        for number, name in enumerate(names):
            (place := Path(folder) / str(number)).mkdir()
            os.environ["PACSIFIER_STATE_ROOT"] = str(place / "state")
            found[name] = cells(name, cohort, place, place / "state")
            if verbose:
                for title, cell in found[name].items():
                    print(f"{name} | {title} | {cell.verdict} | {cell.said}", flush=True)
    real = [name for name in names if name in REAL]
    signs = {RIGHT: "", NAMED: "named", WRONG: "**wrong**"}

    def sign(name: str, title: str) -> str:
        verdict = found[name][title].verdict
        return "*lost*" if verdict == WRONG and title in LOST.get(name, ()) else signs[verdict]

    print("| query |", " | ".join(real), "|\n|---|" + "---|" * len(real))
    for query in QUERIES:
        row = [sign(name, query.title) for name in real]
        if any(row):
            print(f"| {query.title} |", " | ".join(row), "|")
    for verdict in signs:
        print(f"| *{verdict}* |", " | ".join(str(count(found[name], verdict)) for name in real), "|")
    print("\n| the embedded PACS | right | named | silently wrong |\n|---|---|---|---|")
    for name in names:
        if name in FAULTY:
            print(f"| {name} |", " | ".join(str(count(found[name], verdict)) for verdict in signs), "|")


def count(found: dict[str, Cell], verdict: str) -> int:
    """How many cells have a verdict."""
    return Counter(cell.verdict for cell in found.values())[verdict]


if __name__ == "__main__":
    chosen = [name for name in sys.argv[1:] if name != "-v"]
    main(chosen or list(REAL | FAULTY), "-v" in sys.argv)
