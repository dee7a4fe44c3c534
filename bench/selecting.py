"""Selecting in simulated cohorts of ten series a row: from the query table to the report of a run that only finds.

The archive is simulated; each size is in a process of its own.

python -m bench.selecting [ROWS ...]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.planning import measured, peak_memory

SIZES = (25_000, 50_000, 100_000)
#: Series of a row, and of each of its studies.
SERIES, OF_STUDY = 10, 2
RULES = """
anchor: closest
days: [-200, 200]
studies: 1
priors: {studies: 1, same: [Modality]}
age: [18, null]
series:
  include: [{name: thin, Modality: CT, SliceThickness: "<=1.5"}, {name: mr, Modality: MR}]
  exclude: [{name: scouts, SeriesDescription: ["*scout*", "*topogram*"]}, {name: few, SeriesNumber: ">90"}]
prefer: [thinnest, most images]
"""


def series_of(row: int) -> Iterable[tuple[str, str, dict[str, str]]]:
    """What an archive tells of the series of a row: Study and Series Instance UID, and attributes."""
    for number in range(SERIES):
        study = number // OF_STUDY
        study_uid = f"1.2.826.0.1.3680043.10.1234.20260101.{row:07d}.{study}"
        attributes = {
            "StudyDate": f"20{18 + study // 2}{row % 12 + 1:02d}{row % 28 + 1:02d}",
            "StudyTime": f"{study:02d}1530.250000",
            "SeriesDescription": "Topogram 0.6" if number % OF_STUDY else "Thorax native",
            "PatientID": f"{row:08d}",
            "StudyInstanceUID": study_uid,
            "PatientName": f"Family{row}^Given{row}",
            "PatientBirthDate": f"19{row % 80 + 10}0101",
            "SeriesInstanceUID": f"{study_uid}.{number:09d}",
            "Modality": "CT",
            "ImageType": "ORIGINAL\\PRIMARY\\AXIAL\\CT_SOM5 SPI",
            "SeriesNumber": str(number + 1),
            "SliceThickness": str(number % 3 + 0.5),
            "IssuerOfPatientID": "",
            "NumberOfSeriesRelatedInstances": "250",
        }
        yield study_uid, attributes["SeriesInstanceUID"], attributes


def select(rows: int) -> tuple[float, float]:
    """Select in a cohort of so many rows in this process; return seconds and the peak of its memory in MB."""
    from pacsifier_ops.archive.find import FoundSeries
    from pacsifier_ops.base.config import PacsNode
    from pacsifier_ops.base.files import private_folder
    from pacsifier_ops.extract import choosing, search, steps
    from pacsifier_ops.extract.run import Request
    from pacsifier_ops.query.table import read_query_table
    from pacsifier_ops.runs.accounts import ROW_FOUND
    from pacsifier_ops.runs.folder import MOST, Run

    def simulated(asked: Iterable[dict[str, Any]], *rest: Any) -> list[search.RowSearch]:
        searches = []
        for row in asked:
            found = [("simulated", FoundSeries(*one)) for one in series_of(int(row["keys"]["PatientID"]))]
            searches.append(search.RowSearch(row, ROW_FOUND, found=found))
        return searches

    search.search = simulated  # type: ignore[assignment]
    node = PacsNode("simulated", "localhost", 104, "PACS")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PACSIFIER_STATE_ROOT"] = f"{folder}/state"
        table, rules = Path(folder) / "table.csv", Path(folder) / "rules.yaml"
        rules.write_text(RULES)
        with table.open("w") as stream:
            stream.write("PatientID,anchor_date,row_id\n")
            stream.writelines(f"{row:08d},20190{row % 9 + 1}15,r{row}\n" for row in range(rows))
        run = Run.fresh()
        started = time.perf_counter()
        private_folder(Path(folder) / "out")
        request = Request(table, Path(folder) / "out", retrieve="none", selection=str(rules))
        request.keep(run)
        choosing.read_and_keep(run, request.selection)
        for batch in steps._write_rows(
            run, read_query_table(table), MOST, steps._remembered_of(run, request, choosing.kept(run))
        ):
            steps.find(run, node, batch)
        planned = steps.plan(run, node)
        account = steps.report(run)
        seconds = time.perf_counter() - started
        assert len(account.rows) == rows and len(account.series) == planned.series > rows // 2
    return seconds, peak_memory()


def main() -> None:
    """Print a line for each size."""
    print(f"{'rows':>8} {'series':>8} {'seconds':>8} {'ms/series':>10} {'peak MB':>8}")
    for size in map(int, sys.argv[1:] or SIZES):
        seconds, megabytes = measured("bench.selecting", "select", size)
        print(f"{size:8d} {size * SERIES:8d} {seconds:8.1f} {seconds / size / SERIES * 1000:10.3f} {megabytes:8.0f}")


if __name__ == "__main__":
    main()
