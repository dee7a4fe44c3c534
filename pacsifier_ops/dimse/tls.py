"""TLS contexts for DICOM (PS3.15 B.12: BCP 195), for requestor and receiver, and explanations of TLS errors."""

from __future__ import annotations

import ssl
from pathlib import Path

from pacsifier_ops.base.config import Tls
from pacsifier_ops.base.errors import ConfigError


def requestor_context(where: str, tls: Tls) -> ssl.SSLContext:
    """Make the TLS context for associations with a node.

    Args:
        where: name of the place in errors.
        tls: the TLS settings of the node.

    Raises:
        ConfigError: a file cannot be read, or has the wrong content; names the field.
    """
    context = _context(ssl.Purpose.SERVER_AUTH, where, tls)
    context.check_hostname = tls.check_host
    return context


def receiver_context(where: str, tls: Tls) -> ssl.SSLContext:
    """Make the TLS context of our receiver. With `tls.ca`, senders need a certificate from that authority.

    Raises:
        ConfigError: see `requestor_context`; or there is no certificate of our own.
    """
    if not tls.certificate:
        raise ConfigError(f"{where}: tls_certificate is missing; a receiver needs one")
    context = _context(ssl.Purpose.CLIENT_AUTH, where, tls)
    if tls.ca:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def context_for(purpose: ssl.Purpose, ca: str = "") -> ssl.SSLContext:
    """Make a TLS context with the settings common to all connections.

    Args:
        purpose: side of the connection.
        ca: PEM file of the authorities of the peer's certificate; empty: those of the system.

    Raises:
        OSError: the file cannot be read, or contains no certificate.
    """
    context = ssl.create_default_context(purpose, cafile=ca or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The same for all versions of Python: 3.13 refuses certificates that authorities of hospitals still issue.
    context.verify_flags = (context.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN) & ~ssl.VERIFY_X509_STRICT
    return context


def _context(purpose: ssl.Purpose, where: str, tls: Tls) -> ssl.SSLContext:
    for label, path in (("tls_ca", tls.ca), ("tls_certificate", tls.certificate), ("tls_key", tls.key)):
        if path and not Path(path).is_file():
            raise ConfigError(f"{where}: {label}: there is no such file")
    try:
        context = context_for(purpose, tls.ca)
    except OSError:
        raise ConfigError(f"{where}: tls_ca holds no certificate in PEM format") from None
    try:
        if tls.certificate:
            # A function, because otherwise a missing passphrase would be requested at the terminal.
            context.load_cert_chain(tls.certificate, tls.key or None, lambda: tls.password)
    except (OSError, ValueError):
        raise ConfigError(
            f"{where}: tls_certificate and tls_key do not fit together, are not in PEM format, or the passphrase of "
            "the key is wrong"
        ) from None
    return context


def in_words(error: OSError) -> str:
    """Explain to an administrator why a handshake failed."""
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
