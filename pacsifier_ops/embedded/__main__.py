"""`python -m pacsifier_ops.embedded`: runs the embedded PACS in the foreground, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import signal
import tempfile
import threading
from pathlib import Path

from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import demo_cohort


def _destination(text: str) -> tuple[str, tuple[str, int]]:
    aet, _, address = text.partition("=")
    host, _, port = address.rpartition(":")
    if not (aet and host and port.isdigit()):
        raise argparse.ArgumentTypeError("give AET=host:port")
    return aet, (host, int(port))


def main(argv: list[str] | None = None) -> int:
    """Serve a folder of DICOM files, or the demonstration's cohort. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pacsifier_ops.embedded", description=main.__doc__)
    parser.add_argument("--aet", default="DEMOPACS", help="its AE title (default %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address it listens on (default %(default)s)")
    parser.add_argument("--port", type=int, default=11112, help="0 takes a free one (default %(default)s)")
    parser.add_argument(
        "--destination",
        type=_destination,
        action="append",
        default=[],
        metavar="AET=host:port",
        help="where C-MOVE may send to; may be repeated",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="folder of DICOM files, also takes what C-STORE brings; default a demo cohort",
    )
    arguments = parser.parse_args(argv)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())

    with tempfile.TemporaryDirectory(prefix="pacsifier-demo-") as temporary:
        folder = arguments.folder or Path(temporary)
        if arguments.folder is None:
            demo_cohort(folder)
        pacs = EmbeddedPacs(
            aet=arguments.aet,
            host=arguments.host,
            port=arguments.port,
            destinations=dict(arguments.destination),
            folder=folder,
        )
        count = pacs.add(sorted(path for path in folder.rglob("*") if path.is_file()))
        with pacs:
            print(f"{pacs.aet} listens on {pacs.host}:{pacs.port} with {count} instances", flush=True)
            ended.wait()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
