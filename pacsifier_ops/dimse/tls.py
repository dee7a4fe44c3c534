"""TLS contexts for DICOM (PS3.15 B.12: BCP 195), as requestor and as receiver, and what goes wrong in words."""

from __future__ import annotations

import ssl
from pathlib import Path

from pacsifier_ops.config import PacsNode
from pacsifier_ops.errors import ConfigError


def requestor_context(node: PacsNode) -> ssl.SSLContext | None:
    """How to talk to a node over TLS; None where that is plain.

    Raises:
        ConfigError: a file cannot be read, or is not what it should be; names the field.
    """
    if not node.tls:
        return None
    context = _context(ssl.Purpose.SERVER_AUTH, node.name, node.tls_ca)
    context.check_hostname = node.tls_check_host
    _show(context, node.name, node.tls_certificate, node.tls_key, node.tls_password)
    return context


def receiver_context(where: str, certificate: str, key: str, password: str, ca: str) -> ssl.SSLContext:
    """How our receiver talks over TLS.

    Args:
        where: what to name in errors.
        certificate, key, password: what it shows; PEM files, and the passphrase of the key.
        ca: where given, senders must show a certificate that comes from these authorities.

    Raises:
        ConfigError: a file cannot be read, or is not what it should be.
    """
    context = _context(ssl.Purpose.CLIENT_AUTH, where, ca)
    if ca:
        context.verify_mode = ssl.CERT_REQUIRED
    if not certificate:
        raise ConfigError(f"{where}: tls_certificate is missing; a receiver needs one")
    _show(context, where, certificate, key, password)
    return context


def _context(purpose: ssl.Purpose, where: str, ca: str) -> ssl.SSLContext:
    if ca and not Path(ca).is_file():
        raise ConfigError(f"{where}: tls_ca: there is no such file")
    try:
        context = ssl.create_default_context(purpose, cafile=ca or None)
    except (OSError, ssl.SSLError):
        raise ConfigError(f"{where}: tls_ca holds no certificate in PEM format") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _show(context: ssl.SSLContext, where: str, certificate: str, key: str, password: str) -> None:
    if not certificate:
        return
    for label, path in (("tls_certificate", certificate), ("tls_key", key)):
        if path and not Path(path).is_file():
            raise ConfigError(f"{where}: {label}: there is no such file")
    try:
        # A passphrase that is not there must not be asked for at the terminal.
        context.load_cert_chain(certificate, key or None, lambda: password)
    except (OSError, ssl.SSLError, ValueError):
        raise ConfigError(
            f"{where}: tls_certificate and tls_key do not fit together, are not in PEM format, or the passphrase of "
            "the key is wrong"
        ) from None


def in_words(error: OSError) -> str:
    """Why a handshake failed, for an administrator."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not accepted ({error.verify_message.rstrip('.')}); check tls_ca, that the certificate "
            "has not expired, and that it names the host, or switch tls_check_host off"
        )
    reason = str(getattr(error, "reason", "") or "").upper()
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return "it wants a certificate of ours that it accepts; check tls_certificate and tls_key"
    if "UNKNOWN_CA" in reason or "BAD_CERTIFICATE" in reason or "CERTIFICATE" in reason:
        return "it does not accept our certificate; have it, or its authority, declared on the PACS"
    if "WRONG_VERSION_NUMBER" in reason or "HTTP_REQUEST" in reason:
        return "it does not speak TLS at this port; check the port, or switch tls off"
    if "PROTOCOL_VERSION" in reason or "UNSUPPORTED_PROTOCOL" in reason or "NO_SHARED_CIPHER" in reason:
        return "it offers no TLS 1.2 or newer with a cipher that is safe"
    reason = reason or error.strerror or type(error).__name__
    return f"the TLS handshake failed ({reason}); does it speak TLS at this port?"
