"""config.yaml for the image: every secret's value gone, everything else as it was."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from packager.errors import ConfigError
from packager.image.redact import redact


def test_only_the_values_go() -> None:
    text = "# mine\nmodel_name: x\nsecrets:\n  a: 'one'  # kept\n  b:\n  c: null\n  d: two\nrequirements: [a]\n"
    assert redact(text) == text.replace("'one'", "null").replace("two", "null")


@pytest.mark.parametrize(
    "value", ["plain", "'quo''ted'", '"a\\nb"', "|\n    block\n    scalar", ">-\n    folded", "12", "!!str x"]
)
def test_every_style_of_scalar(value: str) -> None:
    text = f"a: 1\nsecrets:\n  token: {value}\n  other: null\nb: 2\n"
    assert yaml.safe_load(redact(text)) == {"a": 1, "secrets": {"token": None, "other": None}, "b": 2}


@pytest.mark.parametrize("text", ["", "a: 1\n", "secrets:\n", "secrets: {}\n", "# only a comment\n"])
def test_without_secrets_nothing_changes(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "text",
    ["description: &name hidden\nsecrets: {token: *name}\n", "x: &all {token: hidden}\nsecrets:\n  <<: *all\n"],
)
def test_a_value_that_is_written_elsewhere_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot be kept out of the image"):
        redact(text)


@given(
    st.dictionaries(
        st.text(st.characters(categories=["L", "Nd"]), min_size=1), st.none() | st.text(max_size=20), max_size=4
    )
)
def test_any_secrets(secrets: dict[str, str | None]) -> None:
    config = {"model_name": "x", "secrets": secrets, "resources": {"cpu": "1"}}
    redacted = yaml.safe_load(redact(yaml.safe_dump(config)))
    assert redacted == {**config, "secrets": dict.fromkeys(secrets)}
