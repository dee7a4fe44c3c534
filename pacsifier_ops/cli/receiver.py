"""`pacsifier-receiver`: run the standing storage receiver in the foreground."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack

from pacsifier_ops.base import settings
from pacsifier_ops.base.config import address_of, check_ae_title, plain_host, read_config
from pacsifier_ops.base.errors import ConfigError, PacsifierError, ReceiverError
from pacsifier_ops.cli.options import add_tls, number_type, path_type, tls_of
from pacsifier_ops.state.leases import LeaseBusy, Leases

#: Bytes of a gigabyte, and largest number of gigabytes in an option.
_GIB, _MOST_GB = 1024**3, 10**6
#: Seconds between two searches of the spool for old series.
_JANITOR_SECONDS = 120.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pacsifier-receiver",
        description="Receive objects that a PACS sends (C-STORE), and keep them in a spool until their run collects "
        "them.",
    )
    parser.add_argument("-c", "--config", type=path_type, help="PACSIFIER config.json that names AET and move_port")
    parser.add_argument("--aet", help="our AE title, as declared on the PACS")
    parser.add_argument("--port", type=int, help="TCP port, as declared on the PACS")
    parser.add_argument("--host", default="", help="address to listen at (default: all, of IPv4 and IPv6)")
    parser.add_argument("--spool", type=path_type, help="folder of the spool (default: that of the settings)")
    parser.add_argument(
        "--allow-aet",
        action="append",
        metavar="AET",
        help="AE titles that may send, separated by commas; may be repeated (default: all)",
    )
    parser.add_argument(
        "--allow-address",
        action="append",
        metavar="IP",
        help="IP addresses or networks that may connect, separated by commas; may be repeated (default: all)",
    )
    parser.add_argument(
        "--quota-gb", type=number_type(0, _MOST_GB), help="size of the spool above which objects are refused"
    )
    parser.add_argument(
        "--min-free-gb",
        type=number_type(0, _MOST_GB),
        default=2.0,
        help="free disk space below which objects are refused (default: %(default)s)",
    )
    parser.add_argument(
        "--quarantine-hours",
        type=number_type(0, 24 * 366),
        default=24.0,
        help="age at which uncollected series are moved to .quarantine in the spool (default: %(default)s)",
    )
    add_tls(parser).add_argument("--tls", action="store_true", help="receive over TLS only")
    return parser


def _identity(arguments: argparse.Namespace) -> tuple[str, int]:
    """Return AE title and port of the receiver.

    Raises:
        ConfigError: one of them is missing or invalid.
    """
    aet, port = arguments.aet, arguments.port
    if arguments.config is not None:
        node = read_config(arguments.config)
        aet, port = aet or node.destination, port or node.receiver_port
    if not aet or not port:
        raise ConfigError("AE title or port is missing; give --aet and --port, or --config")
    check_ae_title(aet, "--aet")
    if not 1 <= port <= 65535:
        raise ConfigError("--port is not a port; give a number from 1 to 65535")
    return aet, port


def _listed(given: list[str] | None, name: str) -> list[str] | None:
    """Return the values of a repeated option, each of which may be a list with commas; None: it was not given.

    Raises:
        ConfigError: the list is empty (it would allow all), or a value is no AE title.
    """
    if given is None:
        return None
    listed = [part.strip() for text in given for part in text.split(",") if part.strip()]
    if not listed:
        raise ConfigError(f"{name} is empty; name those who may send, or leave the option out to allow all")
    if name == "--allow-aet":
        for title in listed:
            check_ae_title(title, name)
    return listed


def run(arguments: argparse.Namespace, stop: threading.Event) -> None:
    """Receive until `stop` is set.

    Raises:
        PacsifierError: an option is wrong, the port is taken, or a receiver with this AE title and port runs already.
        OSError: the spool cannot be written.
    """
    from pacsifier_ops.dimse.receiver import QUARANTINE, StorageReceiver, quarantine_unasked
    from pacsifier_ops.dimse.tls import receiver_context
    from pacsifier_ops.extract.receiving import announce

    aet, port = _identity(arguments)
    try:
        host = plain_host(arguments.host)
    except ValueError:
        raise ConfigError("--host has a colon and is no IPv6 address; give the port as --port") from None
    spool = (arguments.spool or settings.spool()).absolute()
    quota = arguments.quota_gb
    receiver = StorageReceiver(
        aet,
        port,
        spool,
        host=host,
        allowed_calling=_listed(arguments.allow_aet, "--allow-aet"),
        allowed_addresses=_listed(arguments.allow_address, "--allow-address"),
        quota_bytes=None if quota is None else int(quota * _GIB),
        free_floor_bytes=int(arguments.min_free_gb * _GIB),
        tls=receiver_context("pacsifier-receiver", tls_of(arguments)) if arguments.tls else None,
    )
    leases = Leases(settings.state_root() / "leases")
    with ExitStack() as stack:
        try:
            # Its start clears what comes in at this port. On another machine, or in another pod, the port is free:
            # without this lease, a second receiver would clear what the first one is receiving.
            place = stack.enter_context(leases.acquire(f"incoming {spool} {port}", wait=0))
            stack.enter_context(receiver)
            lease = stack.enter_context(announce(leases, aet, port, spool, arguments.tls))
        except LeaseBusy as error:
            raise ReceiverError(f"a receiver {aet} at port {port} runs already; stop it first") from error
        where = address_of(host, port) if host else f"port {port} of all addresses"
        print(f"pacsifier-receiver ready: {aet} at {where}, spool {spool}", flush=True)
        while not stop.wait(_JANITOR_SECONDS):
            place.check()
            lease.check()
            moved = 0
            try:
                moved = quarantine_unasked(spool, spool / QUARANTINE, arguments.quarantine_hours * 3600)
            except OSError as error:  # the receiver must go on for the PACS
                _say(f"the quarantine cannot be written ({error.strerror})")
            if moved:
                _say(f"{moved} uncollected series moved to .quarantine")
            refused, receiver.error = receiver.error, None
            if refused is not None:
                _say(f"objects were refused: {getattr(refused, 'strerror', None) or type(refused).__name__}")


def _say(text: str) -> None:
    print(f"pacsifier-receiver: {text}", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    arguments = _parser().parse_args(argv)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        run(arguments, stop)
    except PacsifierError as error:
        _say(str(error))
        return error.exit_code
    except OSError as error:
        _say(f"the spool or the state root cannot be written ({error.strerror})")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
