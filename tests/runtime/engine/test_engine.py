import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from runtime.engine import manifest
from runtime.engine.engine import BLOCK_SIZE, Engine
from runtime.errors import EngineError
from tests.conftest import TinyEngine


def capabilities(monkeypatch: pytest.MonkeyPatch, **has: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)


@pytest.mark.parametrize(("dtype", "name"), [("bfloat16", "avx512_bf16"), ("float16", "avx512_fp16")])
def test_a_cpu_computes_in_a_half_type_only_if_it_has_it(
    dtype: str, name: str, tiny_engine: TinyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tiny_engine(dtype=dtype)
    capabilities(monkeypatch, **{name: True})
    assert Engine(engine, device="cpu").dtype == getattr(torch, dtype)
    capabilities(monkeypatch, **{name: False, "avx512_f": True})
    assert Engine(engine, device="cpu").dtype == torch.float32


def test_float32_stays(tiny_engine: TinyEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities(monkeypatch, amx_bf16=True)
    assert Engine(tiny_engine(), device="cpu").dtype == torch.float32


def test_the_cache_holds_what_the_limits_can_use_and_no_more(tiny_engine: TinyEngine) -> None:
    engine = tiny_engine(max_model_len=128, max_batch_size=2)
    assert Engine(engine, device="cpu").num_blocks * BLOCK_SIZE == 2 * 128


@pytest.mark.parametrize("change", ["missing", "tied", "extra", "misshapen"])
def test_weights_of_another_shape_are_named(change: str, tiny_engine: TinyEngine, tmp_path: Path) -> None:
    """Hashes that agree do not make the weights fit the model. Qwen3's embedding is its head as well."""
    engine = Path(shutil.copytree(tiny_engine("qwen3" if change == "tied" else "llama"), tmp_path / "engine"))
    path = next((engine / "weights").iterdir())
    tensors = load_file(path)
    name = "embed.weight" if change == "tied" else "layers.1.qkv.weight"
    if change in ("missing", "tied"):
        del tensors[name]
    elif change == "extra":
        tensors[name := "layers.9.qkv.weight"] = torch.zeros(1)
    else:
        tensors[name] = torch.zeros(3, 3)
    save_file(tensors, path)
    written = manifest.read(engine)
    entry = manifest.File(size=path.stat().st_size, sha256=manifest.sha256(path))
    files = {**written.files, f"weights/{path.name}": entry}
    (engine / "engine.json").write_text(written.model_copy(update={"files": files}).dump())
    with pytest.raises(EngineError, match=name.replace(".", r"\.")):
        Engine(engine, device="cpu")
