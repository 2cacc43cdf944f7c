"""requirements.lock: made once, kept, made again when what it was made from changed, and nobody's edits lost."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from packager.errors import ConfigError, TrtpackError
from packager.image.lock import Wanted, locked
from tests.wheels import make_wheel

WANTED = Wanted(lines="attrs\ntorch==2.13.0\n", python="3.12", platform="linux/amd64", cpu=True)


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "own-wheels"
    folder.mkdir()
    for name, version in (("attrs", "25.1"), ("zeep", "4.2"), ("setuptools", "80.1"), ("leftpad", "1.0")):
        make_wheel(folder, name, version)
    make_wheel(folder, "torch", "2.13.0+cpu", ("setuptools",))
    return folder


@pytest.fixture
def lock(tmp_path: Path, wheels: Path) -> Callable[..., str]:
    def make(wanted: Wanted = WANTED, *, upgrade: bool = False) -> str:
        return locked(tmp_path, wanted, wheels=wheels, upgrade=upgrade)

    return make


def names(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if line and line[0].isalpha()]


def test_every_distribution_has_a_hash(lock: Callable[..., str], tmp_path: Path) -> None:
    text = lock()
    assert names(text) == ["attrs==25.1", "torch==2.13.0+cpu"]
    assert text.count("--hash=sha256:") == 2
    assert (tmp_path / "requirements.lock").read_text() == text
    assert "# For Python 3.12 on linux/amd64, torch without CUDA, from:\n#   attrs\n#   torch==2.13.0\n" in text


def test_it_is_kept_whatever_is_released(lock: Callable[..., str], wheels: Path) -> None:
    text = lock()
    make_wheel(wheels, "attrs", "25.2")
    assert lock() == text
    shutil.rmtree(wheels)
    assert lock() == text


def test_a_change_of_what_it_was_made_from_keeps_the_versions_that_fit(
    lock: Callable[..., str], wheels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock()
    make_wheel(wheels, "attrs", "25.2")
    text = lock(replace(WANTED, lines=WANTED.lines + "zeep\n"))
    assert names(text) == ["attrs==25.1", "torch==2.13.0+cpu", "zeep==4.2"]
    assert "is made again: what it was made from changed" in " ".join(capsys.readouterr().err.split())


def test_upgrade_takes_what_is_newest(lock: Callable[..., str], wheels: Path) -> None:
    lock()
    make_wheel(wheels, "attrs", "25.2")
    assert names(lock(upgrade=True))[0] == "attrs==25.2"


@pytest.mark.parametrize("edit", ["attrs==25.0", "# attrs==25.1"])
def test_an_edit_by_hand_is_refused_and_kept(lock: Callable[..., str], tmp_path: Path, edit: str) -> None:
    path = tmp_path / "requirements.lock"
    edited = lock().replace("attrs==25.1", edit)
    path.write_text(edited)
    with pytest.raises(ConfigError, match="was changed by hand") as refused:
        lock()
    assert "trtpack build --upgrade" in (refused.value.hint or "")
    assert path.read_text() == edited
    assert "attrs==25.1" in names(lock(upgrade=True))


@pytest.mark.parametrize("upgrade", [True, False])
def test_a_file_of_another_maker_is_left_alone(lock: Callable[..., str], tmp_path: Path, upgrade: bool) -> None:
    (tmp_path / "requirements.lock").write_text("attrs==1\n")
    with pytest.raises(ConfigError, match=r"requirements\.lock was not made by trtpack"):
        lock(upgrade=upgrade)
    assert (tmp_path / "requirements.lock").read_text() == "attrs==1\n"


def test_setuptools_comes_only_if_asked_for(lock: Callable[..., str]) -> None:
    """torch names it, to compile extensions with."""
    assert "setuptools" not in lock()
    assert "setuptools==80.1" in names(lock(replace(WANTED, lines=WANTED.lines + "setuptools\n")))


def test_a_requirements_file_is_read_with_its_indexes(lock: Callable[..., str], tmp_path: Path) -> None:
    text = "--extra-index-url https://index.example/simple\n# why\nleftpad\n"
    (tmp_path / "own.txt").write_text(text)
    made = lock(replace(WANTED, file="own.txt", text=text))
    assert "leftpad==1.0" in names(made)
    assert "\n--extra-index-url https://index.example/simple\n" in made


def test_what_has_no_hash_is_refused(lock: Callable[..., str], tmp_path: Path, wheels: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text('[project]\nname = "own"\nversion = "1"\n')
    with pytest.raises(ConfigError, match=r"requirements: .*own.* has no hash to hold it to"):
        lock(replace(WANTED, lines=f"own @ {project.as_uri()}\n"))
    assert not (tmp_path / "requirements.lock").exists()


def test_what_cannot_be_met_is_told_in_a_line(lock: Callable[..., str]) -> None:
    with pytest.raises(ConfigError, match=r"cannot be met from the wheels in .*attrs>90") as refused:
        lock(replace(WANTED, lines="attrs>90\n"))
    assert "\n" not in refused.value.message


def test_no_index_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(TrtpackError, match=r"no package index answers: .*127\.0\.0\.1:9") as refused:
        locked(tmp_path, replace(WANTED, lines="attrs\n"))
    assert "--wheels DIR" in (refused.value.hint or "")
    assert not list(tmp_path.glob("requirements.lock*"))
