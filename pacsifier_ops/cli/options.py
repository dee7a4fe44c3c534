"""Flags that several commands share, and the requests that are made of them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pacsifier_ops.base.config import Tls
from pacsifier_ops.base.errors import PathRefused
from pacsifier_ops.base.files import resolved
from pacsifier_ops.base.options import NOT_GIVEN, Flag, Option, options

#: Environment variable with the passphrase of the TLS key. Every user of a machine can read its command lines.
PASSWORD = "PACSIFIER_TLS_PASSWORD"

R = TypeVar("R")


def path_type(text: str) -> Path:
    """Return a path, as a type of argparse. The path must be valid, and need not exist."""
    try:
        resolved(text, "")
    except PathRefused as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix(": ")) from None
    return Path(text)


def number_type(least: float, most: float, kind: type[int] | type[float] = float) -> Callable[[str], float]:
    """Return a type of argparse for numbers from `least` to `most`, without NaN."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError("not a number") from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"not a number from {least:,.12g} to {most:,.12g}")
        return value

    return parse


def add_flags(parser: argparse._ActionsContainer, more: argparse._ActionsContainer, *requests: type) -> None:
    """Add the flags of the options of jobs.

    Args:
        more: group of the flags that PACSIFIER does not have.
        requests: classes of the requests; a flag that several have is added once.
    """
    added: set[str] = set()
    for one in (one for request in requests for one in options(request).values() if one.flag):
        if one.attribute not in added:
            added.add(one.attribute)
            _add_flag(more if one.flag and one.flag.extra else parser, one)


def _add_flag(parser: argparse._ActionsContainer, one: Option) -> None:
    flag = one.flag or Flag()
    name = flag.name or one.name
    default = one.initial if flag.default is NOT_GIVEN else flag.default
    arguments: dict[str, Any] = {"action": "store_false" if flag.off else "store_true"}
    if one.kind is not bool:
        kind: Callable[[str], Any] = path_type if one.is_path else one.kind
        if one.kind is not str and not flag.free:
            kind = number_type(one.least, one.most, one.kind)
        arguments = {
            "type": kind,
            "choices": [*one.choices] or None,
            "metavar": flag.metavar or (None if one.choices else name.upper()),
            "required": flag.required or (default is NOT_GIVEN and not one.like),
            # Not an empty text: argparse would convert it to a path.
            "default": None if default in ("", NOT_GIVEN) else default,
        }
    names = (f"--{name}", *[flag.short] * bool(flag.short))
    parser.add_argument(*names, dest=one.attribute, help=flag.help, **arguments)


def request_from(request: type[R], args: argparse.Namespace, **more: Any) -> R:
    """Return a request, made of the flags of its options. Paths in it are absolute.

    Args:
        more: further fields of the request.
    """
    values: dict[str, Any] = {}
    for one in options(request).values():
        value = getattr(args, one.attribute) if one.flag else None
        if value is None and one.like:
            value = getattr(args, options(request)[one.like].attribute)
        if isinstance(value, Path):
            value = value.absolute() if one.holds == "Path" else str(value.absolute())
        if value is not None:
            values[one.attribute] = value
    return request(**{**values, **more})


def add_tls(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the flags that `tls_of` reads, and return their group."""
    group = parser.add_argument_group("TLS", f"Files are in PEM format. The key's passphrase is read from {PASSWORD}.")
    group.add_argument(
        "--tls_ca", default="", metavar="FILE", help="certificate authorities of the peer (those of the system)"
    )
    group.add_argument("--tls_certificate", default="", metavar="FILE", help="our certificate, with its chain")
    group.add_argument("--tls_key", default="", metavar="FILE", help="our key, if it is not in the certificate's file")
    return group


def tls_of(args: argparse.Namespace, check_host: bool = True) -> Tls:
    """Return the TLS settings of the flags of `add_tls`."""
    password = os.environ.get(PASSWORD, "")
    return Tls(args.tls_ca, args.tls_certificate, args.tls_key, password, check_host)
