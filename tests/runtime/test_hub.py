"""Names on the Hugging Face Hub, and an image that lacks its library."""

import subprocess
import sys

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


def test_without_the_library_it_is_told_what_to_add() -> None:
    code = """
import sys
sys.modules["huggingface_hub"] = None
from runtime.errors import RegistryError
try:
    import runtime.registry.hub
except RegistryError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "needs huggingface_hub, which is not installed: add it to requirements in config.yaml" in done.stdout
