"""`trtpack init`."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from packager.cli import main
from packager.config import load

FILES = ["config.yaml", "model/model.py"]


def init(*args: str | Path) -> Result:
    return CliRunner().invoke(main, ["init", *map(str, args)])


def tree(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_the_package_is_complete_and_every_value_true(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = init(tmp_path / "smollm")
    assert (result.exit_code, result.stderr) == (0, "")
    assert list(tree(tmp_path / "smollm")) == FILES
    config = load(tmp_path / "smollm")
    assert capsys.readouterr().err == ""
    assert config.model_name == "smollm"
    assert config.engine and config.engine.checkpoint == "hf://HuggingFaceTB/SmolLM2-135M-Instruct"
    assert str(config.resources.accelerator) == "L4"
    assert config.runtime.predict_concurrency == 256


def test_it_says_what_to_do_next(tmp_path: Path) -> None:
    folder = tmp_path / "my model"
    output = init(folder).output
    assert f"trtpack compile '{folder}'\n  trtpack serve '{folder}'\n  trtpack predict" in output


def test_the_comments_stay(tmp_path: Path) -> None:
    init(tmp_path / "a")
    init(tmp_path / "b", "--checkpoint", "hf://org/other@v1", "--gpu", "nvidia-h100-80gb:2")
    one, other = ((tmp_path / name / "config.yaml").read_text().splitlines() for name in "ab")
    changed = [(old, new) for old, new in zip(one, other, strict=True) if old != new]
    assert [new for _, new in changed] == [
        "model_name: b",
        "  checkpoint: hf://org/other@v1",
        "  accelerator: H100:2",
    ]


@pytest.mark.parametrize("name", ["123", "null", "yes: no # maybe", "it's"])
def test_any_name_is_quoted_as_needed(tmp_path: Path, name: str) -> None:
    init(tmp_path / name)
    assert load(tmp_path / name).model_name == name


def test_a_checkpoint_on_disk_is_named_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights: 1").mkdir()
    monkeypatch.chdir(tmp_path)
    assert init("a", "--checkpoint", "weights: 1").exit_code == 0
    engine = load(tmp_path / "a").engine
    assert engine and engine.checkpoint == str(tmp_path / "weights: 1")


def test_it_works_in_a_folder_that_holds_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert init(tmp_path).exit_code == 0
    assert tree(tmp_path)["notes.txt"] == b"mine"


@pytest.mark.parametrize("name", FILES)
def test_it_never_overwrites(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    result = init(tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {tmp_path / name} exists; nothing was written\n")
    assert tree(tmp_path) == {name: b"mine"}


@pytest.mark.parametrize("name", ["", "model"])
def test_a_file_where_a_folder_must_be(tmp_path: Path, name: str) -> None:
    target = tmp_path / "new"
    (target / name).parent.mkdir(exist_ok=True)
    (target / name).write_text("mine")
    result = init(target)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {target / name} exists; nothing was written\n")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--gpu", "L5", "unknown GPU 'L5'"),
        ("--gpu", "L4:0", "expected a GPU and a count, such as A100:2"),
        ("--checkpoint", "org/missing", "checkpoint org/missing does not exist"),
    ],
)
def test_wrong_options_write_nothing(tmp_path: Path, option: str, value: str, message: str) -> None:
    result = init(tmp_path / "a", option, value)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "a").exists()
