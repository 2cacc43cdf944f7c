import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from packager.attestation import signature
from packager.errors import ConfigError, TrtpackError
from tests.packager.attestation.conftest import PrivateKey, write_keys

STATEMENT = b'{"_type":"https://in-toto.io/Statement/v1"}'


@pytest.mark.parametrize(
    "key",
    [
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["ed25519", "p256", "p384", "rsa"],
)
def test_a_signature_is_by_the_key_that_made_it(tmp_path: Path, key: PrivateKey) -> None:
    private, public = write_keys(tmp_path, key)
    other = write_keys(tmp_path / "other", ed25519.Ed25519PrivateKey.generate())[1]
    envelope = signature.opened(signature.sign(STATEMENT, signature.signer(private)))
    assert envelope.payload == STATEMENT
    assert signature.is_by(envelope, signature.public_key(public))
    assert not signature.is_by(envelope, signature.public_key(other))


def test_the_envelope_is_as_its_specification_says(tmp_path: Path) -> None:
    """Checked without the library that made it: github.com/secure-systems-lab/dsse, protocol.md."""
    key = ed25519.Ed25519PrivateKey.generate()
    envelope = json.loads(signature.sign(STATEMENT, signature.signer(write_keys(tmp_path, key)[0])))
    payload = base64.b64decode(envelope["payload"])
    assert (payload, envelope["payloadType"]) == (STATEMENT, "application/vnd.in-toto+json")
    signed = b"DSSEv1 28 application/vnd.in-toto+json %d %b" % (len(payload), payload)
    key.public_key().verify(base64.b64decode(envelope["signatures"][0]["sig"]), signed)


def test_a_changed_statement_is_not_signed(keys: tuple[Path, Path]) -> None:
    private, public = keys
    envelope = signature.opened(signature.sign(STATEMENT, signature.signer(private)))
    envelope.payload += b" "
    assert not signature.is_by(envelope, signature.public_key(public))


def test_a_key_that_is_encrypted_is_opened_with_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = write_keys(tmp_path, ed25519.Ed25519PrivateKey.generate(), password="open sesame")
    with pytest.raises(ConfigError, match="is encrypted\n  Set TRTPACK_SIGNING_PASSWORD"):
        signature.signer(private)
    monkeypatch.setenv("TRTPACK_SIGNING_PASSWORD", "wrong")
    with pytest.raises(ConfigError, match="cannot be opened with the password in TRTPACK_SIGNING_PASSWORD"):
        signature.signer(private)
    monkeypatch.setenv("TRTPACK_SIGNING_PASSWORD", "open sesame")
    envelope = signature.opened(signature.sign(STATEMENT, signature.signer(private)))
    assert signature.is_by(envelope, signature.public_key(public))


def test_a_password_does_no_harm_to_a_key_that_needs_none(
    keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRTPACK_SIGNING_PASSWORD", "open sesame")
    assert signature.signer(keys[0]).public_key.keytype == "ed25519"


def test_what_is_no_key_is_told(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the key .*none\.pem: No such file"):
        signature.signer(tmp_path / "none.pem")
    with pytest.raises(ConfigError, match="is not a private key in PEM that can sign\n  Make a pair with: openssl"):
        signature.signer(keys[1])
    with pytest.raises(ConfigError, match="is not a public key in PEM"):
        signature.public_key(keys[0])


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"payload":"!","payloadType":"x","signatures":[]}'])
def test_what_is_no_envelope_is_told(content: bytes) -> None:
    with pytest.raises(TrtpackError, match=r"not a DSSE envelope|the envelope holds"):
        signature.opened(content)


def test_an_envelope_of_something_else_is_refused(keys: tuple[Path, Path]) -> None:
    content = json.loads(signature.sign(STATEMENT, signature.signer(keys[0])))
    content["payloadType"] = "text/plain"
    with pytest.raises(TrtpackError, match="the envelope holds text/plain"):
        signature.opened(json.dumps(content).encode())
