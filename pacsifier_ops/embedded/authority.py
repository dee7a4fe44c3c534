"""A certificate authority for demonstrations and tests."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pacsifier_ops.base.files import PRIVATE_FILE, write_atomic

#: All key usages of RFC 5280, 4.2.1.3.
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
class Certificate:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path

    def context(self, purpose: ssl.Purpose, ca: Path | None = None) -> ssl.SSLContext:
        """Make a TLS context with this certificate. With `ca`, the peer needs a certificate of that authority.

        Args:
            purpose: CLIENT_AUTH to serve, SERVER_AUTH to connect, as in `ssl.create_default_context`.
            ca: PEM file of the authority.
        """
        context = ssl.create_default_context(purpose, cafile=str(ca) if ca else None)
        if ca and purpose is ssl.Purpose.CLIENT_AUTH:
            context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self.certificate, self.key)
        return context


class Authority:
    """An authority. Its key is never stored, so it issues certificates only during its lifetime.

    Args:
        folder: folder for its certificate (`path`, `<name>.pem`) and those it issues.
        name: its name.
    """

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
        write_atomic(self.path, own.sign(self._key, SHA256()).public_bytes(Encoding.PEM), 0o644)

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

    def issue(self, name: str, *hosts: str, days: tuple[int, int] = (-1, 30)) -> Certificate:
        """Issue a certificate, `<name>.crt` and `<name>.key`.

        Args:
            name: name of the files and the subject.
            hosts: host names and IP addresses of the certificate; default: `<name>.example.org`.
            days: begin and end of its validity, in days from now.
        """
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        names = [_named(host) for host in hosts or (f"{name}.example.org",)]
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
        identity = Certificate(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_atomic(identity.key, pem, PRIVATE_FILE)
        write_atomic(identity.certificate, certificate.public_bytes(Encoding.PEM), 0o644)
        return identity


def _named(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)
