"""Which file answers, where a package brings no model.py."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from packager.cli import main
from packager.config import load
from packager.errors import ConfigError
from packager.image import write_context
from packager.model import SUPPLIED, model_file

ENGINE = "engine: {checkpoint: hf://a/b, dtype: float32}\n"


def package(folder: Path, config: str, **files: str) -> Path:
    for name, text in {"config.yaml": config, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_the_template_s_where_there_is_none(tmp_path: Path) -> None:
    folder = package(tmp_path, ENGINE)
    assert model_file(folder, load(folder)) == SUPPLIED
    assert "class Model" in SUPPLIED.read_text()


def test_the_package_s_own_where_there_is_one(tmp_path: Path) -> None:
    folder = package(tmp_path, ENGINE, **{"model/model.py": "class Model: ..."})
    assert model_file(folder, load(folder)) == folder / "model" / "model.py"


@pytest.mark.parametrize(
    "config", ["model_name: a\n", ENGINE + "model_class_filename: main.py\n", ENGINE + "model_class_name: Mine\n"]
)
def test_one_that_is_asked_for_must_be_there(tmp_path: Path, config: str) -> None:
    folder = package(tmp_path, config)
    with pytest.raises(ConfigError, match=r"model/\w+\.py does not exist"):
        model_file(folder, load(folder))


@pytest.mark.parametrize("files", [{}, {"model/helper.py": "ONE = 1\n"}])
def test_the_image_gets_it_beside_what_the_package_has(
    tmp_path: Path, files: dict[str, str], tiny_engine: Callable[..., Path], no_index: Path
) -> None:
    folder = package(tmp_path / "package", ENGINE, **files)
    (folder / "engine").symlink_to(tiny_engine())
    write_context(folder, load(folder), tmp_path / "context")
    written = {path.name: path.read_bytes() for path in (tmp_path / "context/image/app/model").iterdir()}
    assert written == {"model.py": SUPPLIED.read_bytes()} | {Path(k).name: v.encode() for k, v in files.items()}


@pytest.mark.parametrize("own", [True, False])
def test_serve_hands_it_over(
    tmp_path: Path, own: bool, tiny_engine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = package(tmp_path, ENGINE, **({"model/model.py": "class Model: ..."} if own else {}))
    (folder / "engine").symlink_to(tiny_engine())
    called: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda path, argv, env: called.append(argv))
    assert CliRunner().invoke(main, ["serve", str(folder)]).exit_code == 0
    assert called[0][-2:] == (["--port", "8080"] if own else ["--model", str(SUPPLIED)])
