"""`pacsifier-get-pseudonyms`: give patients pseudonyms and day shifts, from a service, a file, or a secret."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pacsifier_ops.base.errors import PacsifierError
from pacsifier_ops.base.words import plural
from pacsifier_ops.cli.crew import begun, stoppable
from pacsifier_ops.cli.options import add_flags, number_type, path_type, request_from
from pacsifier_ops.pseudonyms import steps
from pacsifier_ops.pseudonyms.deid_api import DeidService, read_deid_config
from pacsifier_ops.pseudonyms.linkage import Linkage
from pacsifier_ops.pseudonyms.run import DEID, PseudonymRequest
from pacsifier_ops.pseudonyms.secret import VARIABLE
from pacsifier_ops.runs.accounts import EXIT_CODES
from pacsifier_ops.runs.folder import noted_warnings


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments: those of PACSIFIER, and a few more."""
    p = argparse.ArgumentParser(
        prog="pacsifier-get-pseudonyms",
        description="Give patients pseudonyms and day shifts. Patients of the linkage keep theirs, and are not asked "
        "for again.",
        epilog="Exit codes: 0 all patients are linked, 1 error, 2 bad input, 3 a patient is not linked, "
        "130 interrupted.",
    )
    more = p.add_argument_group("beyond PACSIFIER")
    add_flags(p, more, PseudonymRequest)
    p.add_argument(
        "--config", "-c", type=path_type, help="configuration of the De-ID service (deid_URL and deid_token)"
    )
    p.add_argument("--verbose", "-v", action="store_true", help="print a line for every batch")
    more.add_argument("--ca", default="", metavar="FILE", help="certificate authorities of the De-ID service")
    more.add_argument(
        "--timeout",
        type=number_type(0.001, 7 * 24 * 3600),
        default=DeidService.read_timeout,
        help="maximum seconds for an answer of the De-ID service",
    )
    more.add_argument(
        "--retry_wait",
        type=number_type(0, 7 * 24 * 3600),
        default=DeidService.retry_wait,
        help="seconds before a failed call is repeated; doubles each time",
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    arguments = parser()
    args = arguments.parse_args(argv)
    if args.source == DEID and args.config is None:
        arguments.error("--config is missing: the configuration of the De-ID service")
    try:
        return _run(args)
    except PacsifierError as error:
        print(f"pacsifier-get-pseudonyms: {error.shown()}", file=sys.stderr)
        return error.exit_code


def _run(args: argparse.Namespace) -> int:
    request = request_from(PseudonymRequest, args)
    table = Path(request.queryfile) if request.queryfile else None
    run = begun("pacsifier-get-pseudonyms", table, project=request.project)
    with stoppable() as stopped, noted_warnings(run):
        request.check()
        source = _source(request, args)
        for batch in steps.prepare(run, request, source.batch_size, stopped):
            counts = steps.ask(run, source, batch, stopped)
            if args.verbose:
                print(f"batch {batch + 1}: {counts['asked']} asked for, {counts['new']} new", flush=True)
        summary = steps.report(run)
    print(f"{summary.verdict}: {summary.linked} of {summary.patients} patients linked, {summary.new} of them new")
    if summary.unnamed:
        print(f"{summary.unnamed} file(s) name no patient; see {run.folder}/problems.txt", file=sys.stderr)
    if summary.without_id:
        print(f"{plural(summary.without_id, 'row')} without a PatientID passed over; see {run.folder}/problems.txt")
    linkage = Linkage(request.project, request.folder)
    if linkage.is_readable():
        print("warning: the linkage is open to others, folder and files; move it elsewhere", file=sys.stderr)
    elif linkage.is_open():
        print("warning: the folder of the linkage is open to others, its files are not; chmod 700 it", file=sys.stderr)
    print(f"linkage: {request.out_directory}", flush=True)
    return EXIT_CODES[summary.verdict]


def _source(request: PseudonymRequest, args: argparse.Namespace) -> steps.Source:
    if request.source != DEID:
        return steps.own_source(request, os.environ.get(VARIABLE, ""))
    config = read_deid_config(args.config)
    return DeidService(config.url, config.token, args.ca, read_timeout=args.timeout, retry_wait=args.retry_wait)


if __name__ == "__main__":
    sys.exit(main())
