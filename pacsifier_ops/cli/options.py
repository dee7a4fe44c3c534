"""Options that several commands share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from pacsifier_ops.base.config import Tls
from pacsifier_ops.base.errors import PathRefused
from pacsifier_ops.base.files import resolved
from pacsifier_ops.query.reading import CHOICES

#: Environment variable with the passphrase of the TLS key: on a command line everybody could read it.
PASSWORD = "PACSIFIER_TLS_PASSWORD"


def given(text: str) -> Path:
    """What argparse makes a path of: one that can be used, whatever is there."""
    try:
        resolved(text, "")
    except PathRefused as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix(": ")) from None
    return Path(text)


def bounded(least: float, most: float, kind: type[int] | type[float] = float) -> Callable[[str], float]:
    """What argparse makes a number of: neither NaN nor endless, and within bounds."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError("not a number") from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"not a number from {least:,.12g} to {most:,.12g}")
        return value

    return parse


def add_reading(group: argparse._ActionsContainer) -> None:
    """Add the options of reading a query table, which `query.reading.given` takes from the arguments."""
    group.add_argument("--sheet", help="sheet of the workbook with the table, by name or number from 1")
    group.add_argument(
        "--hidden_rows",
        choices=CHOICES["hidden_rows"],
        help="hidden rows of a workbook are bad (refuse), count like the others, or are left out (skip)",
    )
    group.add_argument(
        "--date_format",
        choices=CHOICES["date_format"],
        metavar="FORMAT",
        help=f"how the table has dates that are not YYYYMMDD: {', '.join(CHOICES['date_format'])}",
    )
    group.add_argument(
        "--match", choices=CHOICES["match"], help="what * and ? are: wildcards, or (exact) characters like all others"
    )


def add_tls(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options that `tls_of` reads; returns their group."""
    group = parser.add_argument_group("TLS", f"Files are in PEM format. The key's passphrase is read from {PASSWORD}.")
    group.add_argument("--tls_ca", default="", metavar="FILE", help="authorities of the peer's certificate (system's)")
    group.add_argument("--tls_certificate", default="", metavar="FILE", help="our certificate, with its chain")
    group.add_argument("--tls_key", default="", metavar="FILE", help="our key, unless it is in the certificate's file")
    return group


def tls_of(args: argparse.Namespace, check_host: bool = True) -> Tls:
    """What the options say."""
    password = os.environ.get(PASSWORD, "")
    return Tls(args.tls_ca, args.tls_certificate, args.tls_key, password, check_host)
