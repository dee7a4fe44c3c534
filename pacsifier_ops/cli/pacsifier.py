"""`pacsifier`: find, save, move and upload series, with a config.json and a query table or a folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from pacsifier_ops import __version__
from pacsifier_ops.base.config import ArchiveNode, PacsNode, WebNode, read_archive, read_config, with_overrides
from pacsifier_ops.base.errors import ConfigError, PacsifierError
from pacsifier_ops.base.places import refuse_reserved
from pacsifier_ops.base.start import start_light
from pacsifier_ops.cli.crew import stoppable
from pacsifier_ops.cli.options import add_flags, add_tls, number_type, path_type, request_from, tls_of
from pacsifier_ops.extract.run import Request
from pacsifier_ops.query import reading
from pacsifier_ops.runs.accounts import MOVE, NONE, SAVE
from pacsifier_ops.upload.run import UploadRequest

#: Times of `PacsNode` in seconds, with help texts. They override those of config.json.
_TIMES = {
    "connect_timeout": "maximum time for the TCP connection to the PACS (10)",
    "acse_timeout": "maximum time for the PACS to accept an association (30)",
    "dimse_timeout": "maximum time without a message within a query or a retrieval (120)",
    "recall_wait": "time for which a series that the PACS recalls from slow storage is asked for again (3600; 0: not)",
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments: those of PACSIFIER, and a few more."""
    p = argparse.ArgumentParser(
        prog="pacsifier",
        description="Find the series of a query table in a PACS, and save them, move them to another node, or list "
        "them. Upload a folder to a PACS. Find out what a PACS can do.",
        epilog="Exit codes: 0 complete, 1 error, 2 bad input, 3 incomplete, 4 unbalanced account, 130 interrupted.",
    )
    p.add_argument(
        "--config",
        "-c",
        type=path_type,
        action="append",
        required=True,
        help="configuration of the PACS (config.json); for several, one -c each, in the order of the queries",
    )
    what = p.add_mutually_exclusive_group()
    what.add_argument("--save", "-s", action="store_true", help="retrieve the images of the series found")
    what.add_argument("--move", "-m", action="store_true", help="let the PACS send the series to move_AET")
    what.add_argument(
        "--upload",
        "-u",
        action="store_true",
        help="send the images of --upload_directory to the PACS, or to another destination",
    )
    what.add_argument("--probe", action="store_true", help="find out what the PACS can do, and propose settings")
    more = p.add_argument_group("beyond PACSIFIER")
    add_flags(p, more, Request, UploadRequest)
    p.add_argument("--resume", action="store_true", help="has no effect: images that are there are always skipped")
    p.add_argument("--verbose", "-v", action="store_true", help="print a line for every series")
    p.add_argument("--version", action="version", version=__version__)
    more.add_argument(
        "--destination",
        type=path_type,
        metavar="FILE",
        help="config.json of the node that --move sends to; it is then queried for its images before and after",
    )
    for name, text in _TIMES.items():
        more.add_argument(f"--{name}", type=number_type(0, 7 * 24 * 3600), metavar="SECONDS", help=text)
    tls = add_tls(p)
    tls.add_argument("--tls", action="store_true", help="use TLS to the PACS (and to the destination)")
    tls.add_argument("--receiver_tls", action="store_true", help="the PACS sends to us over TLS")
    tls.add_argument("--tls_any_host", action="store_true", help="the PACS's certificate need not name its host")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    if argv is None:
        start_light()
    arguments = parser()
    args = arguments.parse_args(argv)
    if wrong := _usage_error(args):
        arguments.error(wrong)
    try:
        return _run(args)
    except PacsifierError as error:
        print(f"pacsifier: {error.shown()}", file=sys.stderr)
        return error.exit_code


def _usage_error(args: argparse.Namespace) -> str:
    """Return what is wrong with the combination of arguments; empty if they fit."""
    if len(args.config) > 1 and (args.upload or args.probe):
        return "--upload and --probe work with one PACS; give --config once"
    if args.info and (args.upload or args.probe):
        return "--info is only for --save and --move, or for use alone"
    extraction = args.save or args.move or args.info
    if not (extraction or args.upload or args.probe):
        return "nothing to do: give --save, --move, --upload, --probe or --info"
    if extraction and args.queryfile is None:
        return "--queryfile is missing: the table of the series to find"
    if not extraction and (choices := reading.given(vars(args))):
        return f"--{next(iter(choices))} needs --queryfile"
    if args.destination is not None and not args.move:
        return "--destination needs --move"
    if args.refetch and not args.save:
        return "--refetch needs --save"
    if (args.selection or args.reselect) and not extraction:
        return "--selection needs --save, --move or --info"
    if args.reselect and not args.selection:
        return "--reselect needs --selection"
    if args.names and not extraction:
        return "--names needs --save, --move or --info"
    if args.accept_patient_id_of and not args.save:
        return "--accept_patient_id_of needs --save"
    return ""


def _archive(args: argparse.Namespace, archive: ArchiveNode) -> ArchiveNode:
    """Return an archive with what the flags say; they hold for the one that gives its images, too.

    Raises:
        ConfigError: a flag does not apply to it.
    """
    if archive.giver is not None:
        archive = replace(archive, giver=_archive(args, archive.giver))
    if isinstance(archive, PacsNode):
        return _node(args, archive)
    tls = tls_of(args, check_host=True)
    files = {"tls_ca": tls.ca, "tls_certificate": tls.certificate, "tls_key": tls.key}
    times = {name: getattr(args, name) for name in _TIMES}
    return with_overrides(archive, **times, **{name: path for name, path in files.items() if path})


def _pacs(archive: ArchiveNode, flag: str) -> PacsNode:
    """Return an archive that must speak DIMSE.

    Raises:
        ConfigError: it does not.
    """
    if not isinstance(archive, PacsNode):
        raise ConfigError(f"{archive.name}: speaks DICOMweb, and {flag} works with a PACS")
    return archive


def _node(args: argparse.Namespace, node: PacsNode) -> PacsNode:
    tls = tls_of(args, check_host=not args.tls_any_host)
    return replace(
        with_overrides(node, **{name: getattr(args, name) for name in _TIMES}),
        tls=args.tls,
        receiver_tls=args.receiver_tls,
        tls_ca=tls.ca,
        tls_certificate=tls.certificate,
        tls_key=tls.key,
        tls_password=tls.password,
        tls_check_host=tls.check_host,
    )


def _upload(args: argparse.Namespace) -> int:
    from pacsifier_ops.cli.upload import upload
    from pacsifier_ops.upload.nodes import read_destination

    node = read_destination(args.config[0])
    if isinstance(node, PacsNode | WebNode):
        node = _archive(args, node)
    elif wrong := [flag for flag in (*_TIMES, "tls", "tls_ca", "tls_certificate") if vars(args).get(flag)]:
        raise ConfigError(f"{node.name}: --{wrong[0]} is for archives; give it as a field of the configuration")
    refuse_reserved(args.out_directory.absolute(), "--out_directory", alone=True)
    return upload(request_from(UploadRequest, args), node, args.verbose)


def _run(args: argparse.Namespace) -> int:
    if args.upload:
        return _upload(args)
    archives = [_archive(args, read_archive(config)) for config in args.config]
    if args.probe:
        from pacsifier_ops.probe import run_probe

        with stoppable() as stopped:
            return run_probe(_pacs(archives[0], "--probe"), stopped)
    refuse_reserved(args.out_directory.absolute(), "--out_directory", alone=True)
    from pacsifier_ops.cli.extract import extract

    request = request_from(Request, args, retrieve=SAVE if args.save else MOVE if args.move else NONE)
    destination = _node(args, read_config(args.destination)) if args.destination else None
    return extract(request, archives, destination, args.verbose)


if __name__ == "__main__":
    sys.exit(main())
