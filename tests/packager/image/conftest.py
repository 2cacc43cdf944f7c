"""A package folder to build from, and what it becomes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from packager.config import PackageConfig, load

Package = Callable[..., Path]


@pytest.fixture(autouse=True)
def _no_index(no_index: Path) -> None:
    """No test here reaches an index."""


@pytest.fixture
def make_package(tmp_path: Path) -> Package:
    """Lays down a package without an engine; the arguments are fields of config.yaml."""

    def make(**fields: Any) -> Path:
        folder = tmp_path / "package"
        for name, text in {
            "model/__init__.py": "",
            "model/model.py": "class Model:\n    def predict(self, inputs):\n        return inputs\n",
            "model/__pycache__/model.pyc": "stale",
            "data/words.txt": "one two\n",
            "packages/helper.py": "ONE = 1\n",
            "notes/private.txt": "not for the image\n",
        }.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        config = {"model_name": "Tiny 1", "python_version": "py311", **fields}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        return folder

    return make


@pytest.fixture
def loaded(make_package: Package) -> Callable[..., tuple[Path, PackageConfig]]:
    def make(**fields: Any) -> tuple[Path, PackageConfig]:
        folder = make_package(**fields)
        return folder, load(folder)

    return make
