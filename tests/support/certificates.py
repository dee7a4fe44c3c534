"""Certificates for tests of TLS: two authorities, and what peers may show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from pacsifier_ops.embedded import authority

#: Opens `Identity.locked_key`.
PASSPHRASE = "open, sesame"


@dataclass(frozen=True)
class Identity(authority.Certificate):
    """A certificate and its key, as PEM files; `locked_key` is the same key under PASSPHRASE."""

    locked_key: Path


@dataclass(frozen=True)
class Certificates:
    """All certificates.

    Attributes:
        ca: the authority of all below, unless said otherwise (its certificate alone).
        other_ca: an authority of nobody here but `stranger`.
        server: names 127.0.0.1 and localhost.
        elsewhere: names another host.
        expired: names 127.0.0.1 and localhost, and is out of date.
        client: names nobody that serves.
        stranger: names 127.0.0.1 and localhost, of the other authority.
    """

    ca: Path
    other_ca: Path
    server: Identity
    elsewhere: Identity
    expired: Identity
    client: Identity
    stranger: Identity


class _Authority(authority.Authority):
    def issue(self, name: str, *hosts: str, days: tuple[int, int] = (-1, 30)) -> Identity:
        """As the authority does, and its key under PASSPHRASE as well."""
        issued = super().issue(name, *hosts, days=days)
        identity = Identity(issued.certificate, issued.key, issued.key.with_suffix(".locked.key"))
        lock = BestAvailableEncryption(PASSPHRASE.encode())
        key = load_pem_private_key(issued.key.read_bytes(), None)
        identity.locked_key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
        identity.locked_key.chmod(0o600)
        return identity


def make(folder: Path) -> Certificates:
    """Make them all, below a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    ours, other = _Authority(folder, "authority"), _Authority(folder, "other_authority")
    here = ("127.0.0.1", "localhost")
    return Certificates(
        ca=ours.path,
        other_ca=other.path,
        server=ours.issue("server", *here),
        elsewhere=ours.issue("elsewhere", "pacs.example.org"),
        expired=ours.issue("expired", *here, days=(-20, -10)),
        client=ours.issue("client"),
        stranger=other.issue("stranger", *here),
    )
