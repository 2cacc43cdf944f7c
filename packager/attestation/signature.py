"""Signatures of statements, in DSSE envelopes (github.com/secure-systems-lab/dsse), made and checked offline."""

import json
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error, VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from packager.attestation.statement import MEDIA_TYPE as PAYLOAD
from packager.errors import ConfigError, TrtpackError

MEDIA_TYPE = "application/vnd.dsse.envelope.v1+json"
PASSWORD_VARIABLE = "TRTPACK_SIGNING_PASSWORD"
_MAKE = "Make a pair with: openssl genpkey -algorithm ed25519 -out key.pem && openssl pkey -in key.pem -pubout"


def signer(path: Path) -> CryptoSigner:
    """Of a private key in PEM: Ed25519, ECDSA or RSA. An encrypted one is opened with $TRTPACK_SIGNING_PASSWORD.

    Raises ConfigError for what is no such key.
    """
    password = os.environ.get(PASSWORD_VARIABLE)
    content = _read(path)
    try:
        key = load_pem_private_key(content, password.encode() if password and b"ENCRYPTED" in content else None)
        return CryptoSigner(key)
    except TypeError as error:
        raise ConfigError(f"{path} is encrypted", f"Set {PASSWORD_VARIABLE} to its password.") from error
    except (ValueError, UnsupportedAlgorithm, Error) as error:
        if password and b"ENCRYPTED" in content:
            raise ConfigError(f"{path} cannot be opened with the password in {PASSWORD_VARIABLE}") from error
        raise ConfigError(f"{path} is not a private key in PEM that can sign", _MAKE) from error


def public_key(path: Path) -> SSlibKey:
    """Raises ConfigError for what is no public key in PEM."""
    try:
        return SSlibKey.from_crypto(load_pem_public_key(_read(path)))
    except (ValueError, UnsupportedAlgorithm, Error) as error:
        raise ConfigError(f"{path} is not a public key in PEM", _MAKE) from error


def sign(statement: bytes, by: CryptoSigner) -> bytes:
    """The envelope with the statement inside, as JSON."""
    envelope = Envelope(statement, PAYLOAD, {})
    envelope.sign(by)
    return json.dumps(envelope.to_dict(), sort_keys=True).encode()


def opened(content: bytes) -> Envelope:
    """Raises TrtpackError for what is no envelope of a statement. Nothing is checked."""
    try:
        envelope = Envelope.from_dict(json.loads(content))
    except (ValueError, KeyError, TypeError, AttributeError, Error) as error:
        raise TrtpackError(f"not a DSSE envelope: {error}") from error
    if envelope.payload_type != PAYLOAD:
        raise TrtpackError(f"the envelope holds {envelope.payload_type}, not {PAYLOAD}")
    return envelope


def is_by(envelope: Envelope, key: SSlibKey) -> bool:
    """Whether that key signed it, and not a byte has changed since."""
    try:
        envelope.verify([key], 1)
    except VerificationError:
        return False
    return True


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the key {path}: {error.strerror}", _MAKE) from error
