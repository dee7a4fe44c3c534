"""`pacsifier-anonymize`: de-identify the DICOM files of a folder, on all cores."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pacsifier_ops import __version__
from pacsifier_ops.base.errors import PacsifierError
from pacsifier_ops.base.places import refuse_reserved
from pacsifier_ops.base.start import start_light
from pacsifier_ops.base.terminal import Meter
from pacsifier_ops.cli.crew import begun, carry_out, stoppable
from pacsifier_ops.cli.options import add_flags, request_from
from pacsifier_ops.deid import steps
from pacsifier_ops.deid.contact import ContactSheets
from pacsifier_ops.deid.identity import FOLDER, STUDY
from pacsifier_ops.deid.run import DeidRequest
from pacsifier_ops.pseudonyms.secret import VARIABLE
from pacsifier_ops.runs.folder import Run, noted_warnings

if TYPE_CHECKING:
    from pacsifier_ops.deid.books import DeidAccount


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments: those of PACSIFIER, and a few more."""
    p = argparse.ArgumentParser(
        prog="pacsifier-anonymize",
        description="De-identify the DICOM files of a folder (PS3.15 Annex E). Flags remove more than the profile "
        "does, never less.",
        epilog="Exit codes: 0 complete, 1 error, 2 bad input, 3 incomplete, 4 unbalanced account, 130 interrupted.",
    )
    add_flags(p, p.add_argument_group("beyond PACSIFIER"), DeidRequest)
    p.add_argument("--version", action="version", version=__version__)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    args = parser().parse_args(argv)
    request = request_from(DeidRequest, args)
    shared = _is_shared(request.in_folder)
    if argv is None:
        start_light()
    try:
        return anonymize(request, shared)
    except PacsifierError as error:
        print(f"pacsifier-anonymize: {error}", file=sys.stderr)
        return error.exit_code


def anonymize(request: DeidRequest, shared: bool) -> int:
    """Run a de-identification, and return the exit code.

    Args:
        request: the request.
        shared: several processes convert.

    Raises:
        PacsifierError: the run could not begin, or its account could not be closed.
    """
    run = begun("pacsifier-anonymize", project=request.project)
    refuse_reserved(request.out_folder, "--out_folder", alone=True)
    with stoppable() as stopped, noted_warnings(run), ContactSheets() as sheets:
        # They load their libraries while this process loads its own and looks at the files.
        if shared:
            from pacsifier_ops.cli import converters

            converters.load()
        elif request.contact_sheets and _is_new(request):
            sheets.begin()
        units = steps.prepare(run, request, secret=_secret(), cancelled=stopped)
        return carry_out(
            run,
            lambda: _convert(run, units, shared, sheets, stopped),
            lambda run: steps.report(run, _secret()),
            lambda account, error: _show(account, run, error),
            request.accept_incomplete,
            stopped,
            decides=(),
        )


def _secret() -> str:
    """Return the project's secret if the environment has it. The converting processes have the same environment."""
    return os.environ.get(VARIABLE, "")


def _cores() -> int:
    """Return the number of processor cores that this process may use."""
    with suppress(AttributeError):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _is_shared(folder: Path) -> bool:
    """Return whether several processes share the files of a folder: more than one unit has."""
    files = (name for _, _, names in os.walk(folder) for name in names)
    return _cores() > 1 and next(itertools.islice(files, steps.PART, None), None) is not None


def _is_new(request: DeidRequest) -> bool:
    """Return whether a sheet is probably made in this process: the output is new, and all files are in one folder."""
    folders = (names for _, _, names in os.walk(request.in_folder) if names)
    return not request.out_folder.exists() and len(list(itertools.islice(folders, 2))) == 1


def _convert(run: Run, units: Sequence[int], shared: bool, sheets: ContactSheets, stopped: Callable[[], bool]) -> None:
    """Convert units, in as many processes as there are cores.

    Raises:
        PacsifierError: the error of a unit. All other units were tried.
    """
    with Meter(len(units)) as meter:
        if shared or min(_cores(), len(units)) > 1:
            from pacsifier_ops.cli import converters

            converters.convert(run, units, _cores(), meter.show, stopped)
            return
        with steps.Converting(run, _secret(), stopped, sheets=sheets) as converting:
            for done, unit in enumerate(units, 1):
                converting.unit(unit)
                meter.show(done)


def _show(account: DeidAccount, run: Run, error: Exception | None) -> None:
    """Print the result of a run."""
    totals = account.totals()
    paths_by_reason: dict[tuple[str, str], list[str]] = {}
    for path, outcome, reason in account.set_apart:
        paths_by_reason.setdefault((outcome, reason), []).append(path)
    for (outcome, reason), paths in paths_by_reason.items():
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        print(f"{outcome}: {reason}: {paths[0]}{more}", file=sys.stderr)
    for series in account.series:
        if series.missing:
            print(f"{series.source}: {series.missing} missing: {series.reason}", file=sys.stderr)
    for text in account.discrepancies:
        print(f"unbalanced: {text}", file=sys.stderr)
    if error is not None:
        print(f"pacsifier-anonymize: {error}", file=sys.stderr)
    for reason, count in account.passed_over.items():
        print(f"passed over: {count} file(s), {reason}")
    print(
        f"{account.verdict}: {totals['patients']} patients, {totals['series']} series; of {totals['objects']} objects "
        f"{totals['deidentified']} de-identified, {totals['excluded']} excluded, {totals['quarantined']} quarantined, "
        f"{totals['missing']} missing"
    )
    print(f"dates:     {account.dates}")
    for name, count in account.strangers.items():
        print(f"{name}: {count} of its keys match no patient of this folder; check them for typing errors")
    for identity in (FOLDER, STUDY):
        if identity in account.told_by:
            print(
                f"without PatientID: {account.told_by[identity]} patient(s) are identified only by their {identity}; "
                "check them before you hand anything over"
            )
    if account.nameless:
        print(f"without PatientID: {account.nameless} object(s) in all, of these and of patients with a PatientID")
    if account.apart:
        print(f"put apart: {account.apart}")
    print(f"linkage:   {account.linkage}")
    print(f"report:    {run.report}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
