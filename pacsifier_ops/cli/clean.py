"""`pacsifier-clean`: list what old runs left behind, or remove it."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import PacsifierError
from pacsifier_ops.cli.options import number_type
from pacsifier_ops.state import audit


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pacsifier-clean",
        description="List old run folders, requests, spool and other leftovers, or remove them. Data sets, their "
        "ledgers, and records of deliveries are never changed.",
        epilog="Exit codes: 0 success, 1 something could not be read or removed, 2 bad arguments.",
    )
    parser.add_argument(
        "--days",
        type=number_type(1, 36_600, int),
        default=90,
        help="age in days, since the last change, from which a leftover is old (default: %(default)s)",
    )
    parser.add_argument("--quarantine", action="store_true", help="include objects in quarantine")
    parser.add_argument(
        "--remove", action="store_true", help="remove the leftovers; without this flag, nothing is changed"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        return _clean(args)
    except PacsifierError as error:
        print(f"pacsifier-clean: {error}", file=sys.stderr)
        return error.exit_code


def _clean(args: argparse.Namespace) -> int:
    from pacsifier_ops.maintenance import cleanup

    print(f"state root: {settings.state_root()}\nspool:      {settings.spool()}\nnightly:    {settings.nightly()}")
    found = cleanup.find(args.days, args.quarantine)
    count, size = Counter[str](), Counter[str]()
    failed = 0
    if args.remove and found.leftovers:
        audit.record(audit.REMOVING, by=audit.me(), job="pacsifier-clean", files=len(found.leftovers))
    for leftover in found.leftovers:
        print(f"{leftover.kind:15} {leftover.age:5.0f} days {_shown(leftover.size):>10}  {leftover.place}")
        try:
            if args.remove and not cleanup.remove(leftover):
                print(f"{'':15} kept: it is in use, or has changed")
                continue
        except PacsifierError as error:
            print(f"pacsifier-clean: {error}", file=sys.stderr)
            failed += 1
            continue
        count[leftover.kind] += 1
        size[leftover.kind] += leftover.size
    if args.remove and count:
        audit.record(audit.REMOVED, by=audit.me(), job="pacsifier-clean", files=count.total())
    if found.unfinished:
        print(
            f"kept: {found.unfinished} run(s) that may go on: they have no final account, and changed within the last "
            f"{cleanup.UNFINISHED:g} days"
        )
    if found.quarantined:
        print(f"kept: {found.quarantined} run(s) with objects in quarantine; look at them, then give --quarantine")
    for kind, number in count.items():
        print(f"{kind}: {number}, {_shown(size[kind])}")
    done = "removed" if args.remove else "would be removed; give --remove to do so"
    print(f"{count.total()} older than {args.days} days, {_shown(size.total())}, {done}", flush=True)
    return 1 if failed else 0


def _shown(size: int) -> str:
    """Return a number of bytes with a unit."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


if __name__ == "__main__":
    sys.exit(main())
