"""Names made from what people call their models."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8s.names import is_name, slug


@given(st.text())
def test_slug_is_always_a_name(text: str) -> None:
    assert is_name(slug(text))


@given(st.from_regex(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True).filter(lambda name: "--" not in name))
def test_a_name_is_its_own_slug(name: str) -> None:
    assert slug(name) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("SmolLM2 135M", "smollm2-135m"),
        ("Qwen/Qwen3-0.6B!", "qwen-qwen3-0-6b"),
        ("7B chat", "b-chat"),
        ("模型", "model"),
    ],
)
def test_slug_reads_like_the_model(text: str, name: str) -> None:
    assert slug(text) == name
