"""`pacsifier-audit`: verify the audit file, print its head to be kept elsewhere, print the digest of a query table."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import PacsifierError
from pacsifier_ops.base.given import LARGE, read_given
from pacsifier_ops.base.words import plural
from pacsifier_ops.cli.options import path_type
from pacsifier_ops.state import audit
from pacsifier_ops.state.audit import Head


def _head(text: str) -> Head:
    """Return the head of what `pacsifier-audit head` printed."""
    if not (found := re.fullmatch(r"(\d{1,12}):([0-9a-f]{64})", text.strip())):
        raise argparse.ArgumentTypeError("no head; give what `pacsifier-audit head` printed")
    return Head(int(found[1]), found[2])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pacsifier-audit",
        description=f"The audit file, {settings.audit() / audit.LINES}: who started, approved, released, removed and "
        "exported what.",
        epilog="Exit codes: 0 success, 1 the file was changed, or cannot be read, 2 bad arguments or no file.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    verify = commands.add_parser("verify", help="check that no line was changed, taken out, put in or cut off")
    verify.add_argument("--head", type=_head, help="head that was kept elsewhere; the file must still have that line")
    commands.add_parser("head", help="verify, and print number and SHA-256 of the last line, to be kept elsewhere")
    digest = commands.add_parser("digest", help="print the digest that the audit file has of a query table")
    digest.add_argument("table", type=path_type, help="query table")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    args = _parser().parse_args(argv)
    try:
        if args.command == "digest":
            return _digest(args.table)
        return _verify(args.head) if args.command == "verify" else _print_head()
    except PacsifierError as error:
        print(f"pacsifier-audit: {error}", file=sys.stderr)
        return error.exit_code


def _digest(table: Path) -> int:
    print(audit.keyed(read_given(table, LARGE)))
    return 0


def _print_head() -> int:
    found = audit.verify()
    if found.problem:
        print(f"pacsifier-audit: {found.problem}", file=sys.stderr)
        return 1
    print(found.head)
    return 0


def _verify(kept: Head | None) -> int:
    found = audit.verify(kept)
    if found.problem:
        print(f"broken: {found.problem}")
        return 1
    for line in found.healed:
        print(f"line {line - 1} is not whole: a process was killed while it wrote it; line {line} says so")
    if found.unfinished:
        print("the last line is not whole: a process was killed while it wrote it; the next line will say so")
    print(f"whole: {plural(found.head.lines, 'line')}, head {found.head}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
