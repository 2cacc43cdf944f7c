import json
import shutil
from pathlib import Path

import pytest

from runtime.engine import manifest
from runtime.engine.engine import Engine
from runtime.errors import EngineError
from tests.conftest import TinyEngine


@pytest.fixture
def engine(tiny_engine: TinyEngine, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_engine(), tmp_path / "engine"))


def test_dump_reads_back(engine: Path) -> None:
    read = manifest.read(engine)
    assert (engine / "engine.json").read_text() == read.dump()


def test_every_file_is_listed(engine: Path) -> None:
    files = {p.relative_to(engine).as_posix() for p in engine.rglob("*") if p.is_file()}
    assert set(manifest.read(engine).files) == files - {"engine.json"}


def test_a_flipped_byte_is_named_before_weights_are_read(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = next((engine / "weights").iterdir())
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    monkeypatch.setattr("runtime.engine.weights.read", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(EngineError, match=f"{weights.name} has sha256"):
        Engine(engine)


def test_a_truncated_file_is_named(engine: Path) -> None:
    weights = next((engine / "weights").iterdir())
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(EngineError, match=rf"{weights.name} has \d+ bytes, engine.json says"):
        manifest.verify(engine, manifest.read(engine))


def test_a_missing_file_is_named(engine: Path) -> None:
    (engine / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(EngineError, match=r"tokenizer.json is missing; compile again"):
        manifest.verify(engine, manifest.read(engine))


def test_another_format_version_is_refused(engine: Path) -> None:
    content = json.loads((engine / "engine.json").read_text())
    (engine / "engine.json").write_text(json.dumps({**content, "format_version": 99}))
    with pytest.raises(EngineError, match="format version 99, this runtime reads 2"):
        manifest.read(engine)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format_version": 1}', "\xff"])
def test_what_is_no_manifest_is_refused(engine: Path, text: str) -> None:
    (engine / "engine.json").write_text(text, encoding="latin-1")
    with pytest.raises(EngineError, match=r"engine\.json"):
        manifest.read(engine)
