"""Certificates for tests of DICOM over TLS: two authorities, and what peers may show."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: Opens `Identity.locked_key`.
PASSPHRASE = "open, sesame"
#: All that RFC 5280, 4.2.1.3 has for a key to do.
_USES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, as PEM files; `locked_key` is the same key under PASSPHRASE."""

    certificate: Path
    key: Path
    locked_key: Path

    def context(self, purpose: ssl.Purpose, ca: Path | None = None) -> ssl.SSLContext:
        """A TLS context that shows this certificate; where `ca` is given the peer must show one of that authority.

        Args:
            purpose: CLIENT_AUTH to serve, SERVER_AUTH to connect, as `ssl.create_default_context` has it.
        """
        context = ssl.create_default_context(purpose, cafile=str(ca) if ca else None)
        if ca and purpose is ssl.Purpose.CLIENT_AUTH:
            context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self.certificate, self.key)
        return context


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


class _Authority:
    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.path = folder / f"{name}.pem"
        names = ("key_cert_sign", "crl_sign")
        own = (
            self._certificate(self._name, self._key.public_key(), days=(-1, 30), uses=names)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
        )
        self.path.write_bytes(own.sign(self._key, SHA256()).public_bytes(Encoding.PEM))

    def _certificate(
        self, subject: x509.Name, key: rsa.RSAPublicKey, days: tuple[int, int], uses: tuple[str, ...]
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=days[0]))
            .not_valid_after(now + timedelta(days=days[1]))
            .add_extension(x509.KeyUsage(**{use: use in uses for use in _USES}), critical=True)
        )

    def issue(self, name: str, *hosts: str, days: tuple[int, int] = (-1, 30)) -> Identity:
        """A certificate of this authority; `days` from now it begins and ends to be valid."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        names: list[x509.GeneralName] = [
            x509.IPAddress(IPv4Address(host)) if host[0].isdigit() else x509.DNSName(host)
            for host in hosts or (f"{name}.example.org",)
        ]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            self._certificate(subject, key.public_key(), days, ("digital_signature", "key_encipherment"))
            .add_extension(authority, critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .sign(self._key, SHA256())
        )
        identity = Identity(*(self._folder / f"{name}{end}" for end in (".crt", ".key", ".locked.key")))
        identity.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        for path, lock in (
            (identity.key, NoEncryption()),
            (identity.locked_key, BestAvailableEncryption(PASSPHRASE.encode())),
        ):
            path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
            path.chmod(0o600)
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
