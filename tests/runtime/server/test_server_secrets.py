import pytest

from runtime.server.secrets import SecretError, Secrets


def test_file_before_variable_before_default(tmp_path, monkeypatch):
    secrets = Secrets({"a": "default", "b": "default", "c": "default"}, tmp_path)
    (tmp_path / "a").write_text("from file\n")
    monkeypatch.setenv("TRUSS_SECRET_a", "from variable")
    monkeypatch.setenv("TRUSS_SECRET_b", "from variable")
    assert dict(secrets) == {"a": "from file", "b": "from variable", "c": "default"}


def test_missing_and_undeclared_secrets_say_what_to_do(tmp_path):
    secrets = Secrets({"token": None}, tmp_path)
    with pytest.raises(
        SecretError, match=f"secret 'token' has no value; mount {tmp_path}/token or set TRUSS_SECRET_token"
    ):
        secrets["token"]
    with pytest.raises(SecretError, match=r"secret 'other' is not declared; name it under `secrets:` in config\.yaml"):
        secrets["other"]
    assert secrets.get("other") is None


def test_no_secret_shows_in_a_representation(tmp_path):
    assert "hidden" not in repr(Secrets({"a": "hidden"}, tmp_path))
