"""A checkpoint that tests may change."""

import shutil
from pathlib import Path

import pytest

from tests.tiny import make_checkpoint


@pytest.fixture(scope="session")
def one_layer_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("llama", tmp_path_factory.mktemp("one_layer") / "llama", num_hidden_layers=1)


@pytest.fixture
def one_layer(one_layer_checkpoint: Path, tmp_path: Path) -> Path:
    """A Llama of one layer, in float32, for this test alone."""
    return shutil.copytree(one_layer_checkpoint, tmp_path / "llama")
