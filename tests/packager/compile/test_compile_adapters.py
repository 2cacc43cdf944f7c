"""engine.adapters: checked against the model, and carried by the engine."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from packager.checkpoint import open_checkpoint
from packager.checkpoint.adapter import AdapterCheckpoint
from packager.cli import main
from packager.compile.engine import compile_engine
from packager.config import load
from packager.config.engine import EngineConfig
from packager.errors import TrtpackError
from packager.image import write_context
from runtime.engine import manifest
from runtime.engine.manifest import Adapter, Manifest
from runtime.errors import EngineError
from runtime.llm import LLM
from runtime.lora.adapter import FILES
from tests.adapters import edit, make_adapter
from tests.tiny import make_checkpoint

Checkpoints = Callable[[str], Path]


@pytest.fixture
def adapters(tiny_checkpoint: Checkpoints, tmp_path: Path) -> list[AdapterCheckpoint]:
    made = [
        AdapterCheckpoint(name, f"../{name}", make_adapter(tiny_checkpoint("llama"), tmp_path / name, seed), revision)
        for seed, (name, revision) in enumerate((("ada", None), ("bea", "abc")))
    ]
    (made[0].folder / "optimizer.pt").write_bytes(b"pickle")
    return made


def compiled(checkpoint: Path, out: Path, adapters: Sequence[AdapterCheckpoint]) -> Manifest:
    config = EngineConfig(checkpoint=str(checkpoint), dtype="float32")
    return compile_engine(open_checkpoint(str(checkpoint), Path()), config, out, adapters=adapters)


def generated(engine: Path, adapter: str | None, **others: Path) -> str:
    llm = LLM(engine, adapters=others)
    try:
        inputs = {"prompt": "the quick brown", "adapter": adapter, "max_new_tokens": 12, "temperature": 0}
        return asyncio.run(llm.generate(llm.request(inputs)))
    finally:
        llm.close()


def test_the_engine_carries_them(
    tiny_checkpoint: Checkpoints, adapters: list[AdapterCheckpoint], tmp_path: Path
) -> None:
    engine = tmp_path / "engine"
    written = compiled(tiny_checkpoint("llama"), engine, adapters)
    assert written == manifest.read(engine)
    assert written.adapters == (
        Adapter(name="ada", source="../ada"),
        Adapter(name="bea", source="../bea", revision="abc"),
    )
    assert {name for name in written.files if name.startswith("adapters/")} == {
        f"adapters/{name}/{file}" for name in ("ada", "bea") for file in FILES
    }
    manifest.verify(engine, written)
    answers = {name: generated(engine, name) for name in (None, "ada", "bea")}
    assert len(set(answers.values())) == 3
    plain = tmp_path / "plain"
    compiled(tiny_checkpoint("llama"), plain, ())
    assert answers["ada"] == generated(plain, "ada", ada=adapters[0].folder)
    assert answers["bea"] == generated(engine, "cleo", cleo=adapters[1].folder), "one more than the engine's own"


def test_a_changed_one_is_a_damaged_engine(
    tiny_checkpoint: Checkpoints, adapters: list[AdapterCheckpoint], tmp_path: Path
) -> None:
    compiled(tiny_checkpoint("llama"), tmp_path / "engine", adapters)
    edit(tmp_path / "engine" / "adapters" / "ada", lora_alpha=99)
    with pytest.raises(EngineError, match=r"adapters/ada/adapter_config\.json has"):
        LLM(tmp_path / "engine")


def test_one_of_another_model_leaves_the_old_engine(
    tiny_checkpoint: Checkpoints, adapters: list[AdapterCheckpoint], tmp_path: Path
) -> None:
    compiled(tiny_checkpoint("llama"), tmp_path / "engine", adapters[:1])
    other = make_checkpoint("llama", tmp_path / "wide", hidden_size=128)
    with pytest.raises(TrtpackError, match=r"^engine\.adapters\.bea: .* another model"):
        compiled(other, tmp_path / "engine", adapters[1:])
    assert [adapter.name for adapter in manifest.read(tmp_path / "engine").adapters] == ["ada"]


@pytest.fixture
def package(tiny_checkpoint: Checkpoints, adapters: list[AdapterCheckpoint], tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "config.yaml").write_text(
        "resources: {accelerator: L4}\n"
        f"engine: {{checkpoint: {tiny_checkpoint('llama')}, adapters: {{ada: ../ada, bea: ../bea}}}}\n"
    )
    return folder


def trtpack(*args: object) -> Result:
    return CliRunner().invoke(main, [*map(str, args)])


def test_auto_is_the_torch_backend(package: Path, no_index: Path) -> None:
    result = trtpack("compile", package)
    assert result.exit_code == 0, result.output
    assert "note: engine.adapters: compiled for the torch backend; plans have no place for LoRA adapters" in (
        result.output
    )
    written = manifest.read(package / "engine")
    assert (written.backend.name, [adapter.source for adapter in written.adapters]) == ("torch", ["../ada", "../bea"])
    assert [target.gpu for target in written.targets] == ["nvidia-l4"]
    assert "ada, ../ada" in trtpack("inspect", package).stdout
    image = package / "context"
    (package / "model").mkdir()
    (package / "model" / "model.py").write_text("class Model: ...\n")
    write_context(package, load(package), image)
    manifest.verify(image / "image" / "engine", written)


def test_plans_are_refused(package: Path) -> None:
    result = trtpack("compile", package, "--backend", "tensorrt-rtx")
    assert result.exit_code == 2
    assert "engine.adapters: plans of the tensorrt-rtx backend have no place for LoRA adapters" in result.output


@pytest.mark.parametrize("name", ["../ada", "a b", ".hidden", ""])
def test_a_name_is_a_folders_name(name: str, package: Path) -> None:
    (package / "config.yaml").write_text(f"engine: {{checkpoint: a, adapters: {{'{name}': ../ada}}}}\n")
    result = trtpack("compile", package)
    assert result.exit_code == 2
    assert f"expected at most 64 letters, digits, '.', '_' or '-', first a letter or digit, found {name!r}" in (
        result.output
    )
