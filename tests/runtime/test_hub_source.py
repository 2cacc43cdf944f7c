"""Names on the Hugging Face Hub, and what went wrong there."""

import pytest

from runtime.hub import HubError, Source


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hf://org/name", Source("org/name")),
        ("hf://Org-1/na.me_2@v1.0", Source("Org-1/na.me_2", "v1.0")),
        ("hf://org/name@refs/pr/1", Source("org/name", "refs/pr/1")),
    ],
)
def test_a_source_is_read_and_written_alike(text: str, source: Source) -> None:
    assert Source.parse(text) == source
    assert str(source) == text


@pytest.mark.parametrize("text", ["org/name", "hf://name", "hf://org/name/file", "hf://org/name@", "oci://org/name"])
def test_anything_else_is_none(text: str) -> None:
    assert Source.parse(text) is None


def test_an_error_is_one_text_for_the_log_and_two_for_a_terminal() -> None:
    error = HubError("hf://org/name is gated", "Accept its terms.")
    assert str(error) == "hf://org/name is gated: accept its terms."
    assert (error.message, error.mend) == ("hf://org/name is gated", "Accept its terms.")
