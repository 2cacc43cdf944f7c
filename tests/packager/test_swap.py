"""An engine is replaced all at once, whatever happens in between."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from packager.checkpoint import open_checkpoint
from packager.compile.engine import compile_engine
from packager.config.engine import EngineConfig
from packager.errors import TrtpackError
from packager.swap import replaced
from runtime.engine import manifest
from tests.tiny import make_checkpoint

MARKER = "engine.json"


def write(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text(text)


def replace(out: Path, text: str) -> None:
    with replaced(out, MARKER, "an engine") as folder:
        write(folder, text)


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_new_folder_appears_and_then_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "engine"
    replace(out, "one")
    (out / "stale").write_text("")
    replace(out, "two")
    assert tree(tmp_path) == {"deep/engine/engine.json": "two"}


def test_an_error_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    replace(tmp_path / "engine", "old")
    with pytest.raises(KeyboardInterrupt), replaced(tmp_path / "engine", MARKER, "an engine") as folder:
        write(folder, "half")
        raise KeyboardInterrupt
    assert tree(tmp_path) == {"engine/engine.json": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


def test_while_writing_the_old_one_stays(tmp_path: Path) -> None:
    replace(tmp_path / "engine", "old")
    with replaced(tmp_path / "engine", MARKER, "an engine") as folder:
        write(folder, "new")
        assert (tmp_path / "engine" / MARKER).read_text() == "old"
        assert folder.parent == tmp_path
    assert (tmp_path / "engine" / MARKER).read_text() == "new"


def test_leftovers_of_a_killed_run_are_cleaned(tmp_path: Path) -> None:
    write(tmp_path / "engine", "old")
    write(tmp_path / "engine.partial" / "weights", "half")
    write(tmp_path / "engine.previous", "older")
    replace(tmp_path / "engine", "new")
    assert tree(tmp_path) == {"engine/engine.json": "new"}


def test_a_swap_killed_half_way_is_recovered(tmp_path: Path) -> None:
    """Old one aside, new one not yet in its place; the next run fails too, and the old one is back."""
    write(tmp_path / "engine.previous", "old")
    write(tmp_path / "engine.partial", "new")
    with pytest.raises(RuntimeError), replaced(tmp_path / "engine", MARKER, "an engine"):
        assert (tmp_path / "engine" / MARKER).read_text() == "old"
        raise RuntimeError
    assert tree(tmp_path) == {"engine/engine.json": "old"}


def test_a_failed_rename_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace(tmp_path / "engine", "old")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "engine.partial":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(OSError, match="Input/output"):
            replace(tmp_path / "engine", "new")
    assert tree(tmp_path) == {"engine/engine.json": "old"}


def test_somebodys_own_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "thesis.txt").write_text("mine")
    with pytest.raises(TrtpackError, match="is not an engine"):
        replace(tmp_path / "engine", "new")
    assert tree(tmp_path) == {"engine/thesis.txt": "mine"}
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "engine").write_text("mine")
    with pytest.raises(TrtpackError, match="is not an engine"):
        replace(tmp_path / "engine", "new")
    assert (tmp_path / "engine").read_text() == "mine"


def test_an_empty_folder_is(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    replace(tmp_path / "engine", "new")
    assert tree(tmp_path) == {"engine/engine.json": "new"}


def test_a_link_keeps_pointing_where_it_did(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "engine").symlink_to(tmp_path / "elsewhere" / "engine")
    replace(tmp_path / "engine", "new")
    assert (tmp_path / "engine").is_symlink()
    assert (tmp_path / "elsewhere" / "engine" / MARKER).read_text() == "new"


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with replaced(tmp_path / "engine", MARKER, "an engine") as folder:
        write(folder, "first")
        with pytest.raises(TrtpackError, match="another process is writing"):
            replace(tmp_path / "engine", "second")
    assert tree(tmp_path) == {"engine/engine.json": "first"}


KILLED = """
import sys, time
from pathlib import Path
from packager.checkpoint import open_checkpoint
from packager.checkpoint.folder import FolderCheckpoint
from packager.compile.engine import compile_engine, weights
from packager.config.engine import EngineConfig

real = weights.save_file
def save(tensors, path):
    real(tensors, path)
    print("written", path, flush=True)
    time.sleep(60)
weights.save_file = save
source, out = sys.argv[1:]
compile_engine(open_checkpoint(source, Path()), EngineConfig(checkpoint=source, dtype="float16"), Path(out))
"""


def test_a_compile_killed_half_way_leaves_the_old_engine(tmp_path: Path) -> None:
    source = make_checkpoint("llama", tmp_path / "llama")
    config, out = EngineConfig(checkpoint=str(source), dtype="float32"), tmp_path / "engine"
    old = compile_engine(open_checkpoint(str(source), Path()), config, out)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(source), str(out)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("written")
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "engine.partial" / "weights").is_dir()
    assert manifest.read(out) == old
    manifest.verify(out, old)

    half = config.model_copy(update={"dtype": "float16"})
    new = compile_engine(open_checkpoint(str(source), Path()), half, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engine", "llama"]
    assert manifest.read(out) == new
    manifest.verify(out, new)
