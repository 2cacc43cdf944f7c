"""A registry in this process, with an engine pushed to it; and keys."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from runtime.registry.client import Registry
from runtime.registry.reference import Reference
from tests.runtime.registry.registry_stand_in import Web
from tests.runtime.registry.registry_stand_in import registry as stand_in

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A push waits for no other one."""
    monkeypatch.setattr("packager.registry.engine.sleep", lambda seconds: None)


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    with stand_in() as web:
        yield web


def reference_of(web: Web) -> Reference:
    return Reference.parse(f"{web.address}/models/tiny:1")


@pytest.fixture
def reference(web: Web) -> Reference:
    return reference_of(web)


@pytest.fixture
def registry(reference: Reference) -> Iterator[Registry]:
    with Registry(reference) as registry:
        yield registry


def write_keys(folder: Path, key: PrivateKey, password: str = "") -> tuple[Path, Path]:
    """A private and a public key, in PEM."""
    folder.mkdir(parents=True, exist_ok=True)
    sealed: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        sealed = serialization.BestAvailableEncryption(password.encode())
    private, public = folder / "key.pem", folder / "key.pub.pem"
    pkcs8 = serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, sealed))
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, info))
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_keys(tmp_path / "keys", ed25519.Ed25519PrivateKey.generate())
