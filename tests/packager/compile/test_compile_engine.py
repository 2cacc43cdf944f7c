"""compile_engine: the engine holds the checkpoint's model, or there is no engine."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from packager.checkpoint import open_checkpoint
from packager.compile.engine import compile_engine, weights
from packager.compile.generation import defaults
from packager.compile.target import Choice
from packager.config.engine import EngineConfig
from packager.errors import ConfigError, TrtpackError
from runtime.engine import manifest
from runtime.engine.manifest import Generation, Manifest, Speculation, Target
from runtime.model import layout
from tests.tiny import FAMILIES, make_checkpoint


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return make_checkpoint("llama", tmp_path / "llama")


def compiled(source: Path, out: Path, choice: Choice | None = None, **config: Any) -> Manifest:
    settings = EngineConfig.model_validate({"checkpoint": str(source), "dtype": "float32", **config})
    guessing = settings.speculation and settings.speculation.checkpoint
    draft = open_checkpoint(guessing, Path()) if guessing else None
    return compile_engine(open_checkpoint(str(source), Path()), settings, out, choice, draft=draft)


def tensors(engine: Path) -> dict[str, torch.Tensor]:
    return {name: t for path in (engine / "weights").iterdir() for name, t in load_file(path).items()}


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edit_weights(folder: Path, change: Any) -> None:
    loaded = load_file(folder / "model.safetensors")
    change(loaded)
    save_file(loaded, folder / "model.safetensors")


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_the_checkpoints_in_the_runtimes_layout(family: str, tmp_path: Path) -> None:
    folder = make_checkpoint(family, tmp_path / "hf")
    written = compiled(folder, tmp_path / "engine")
    ours, theirs = tensors(tmp_path / "engine"), load_file(folder / "model.safetensors")
    config = written.model.config
    assert {name: tuple(t.shape) for name, t in ours.items()} == dict(layout.weights(config))
    assert torch.equal(ours["embed.weight"], theirs["model.embed_tokens.weight"])
    assert torch.equal(ours["norm.weight"], theirs["model.norm.weight"])
    if not config.tie_word_embeddings:
        assert torch.equal(ours["head.weight"], theirs["lm_head.weight"])
    for index in range(config.num_layers):
        layer = {n.removeprefix(p): t for n, t in theirs.items() if n.startswith(p := f"model.layers.{index}.")}
        attention = [f"self_attn.{part}_proj" for part in "qkv"]
        expected = {
            "input_norm.weight": layer["input_layernorm.weight"],
            "qkv.weight": torch.cat([layer[f"{part}.weight"] for part in attention]),
            "o.weight": layer["self_attn.o_proj.weight"],
            "mlp_norm.weight": layer["post_attention_layernorm.weight"],
            "gate_up.weight": torch.cat([layer["mlp.gate_proj.weight"], layer["mlp.up_proj.weight"]]),
            "down.weight": layer["mlp.down_proj.weight"],
        }
        if config.qkv_bias:
            expected["qkv.bias"] = torch.cat([layer[f"{part}.bias"] for part in attention])
        if config.qk_norm:
            expected |= {"q_norm.weight": layer["self_attn.q_norm.weight"]}
            expected |= {"k_norm.weight": layer["self_attn.k_norm.weight"]}
        for name, tensor in expected.items():
            assert torch.equal(ours[f"layers.{index}.{name}"], tensor), name


def test_all_the_biases_of_a_llama(tmp_path: Path) -> None:
    folder = make_checkpoint("llama", tmp_path / "hf", attention_bias=True, mlp_bias=True)
    compiled(folder, tmp_path / "engine")
    ours, theirs = tensors(tmp_path / "engine"), load_file(folder / "model.safetensors")
    assert torch.equal(ours["layers.1.o.bias"], theirs["model.layers.1.self_attn.o_proj.bias"])
    assert torch.equal(ours["layers.1.down.bias"], theirs["model.layers.1.mlp.down_proj.bias"])
    assert ours["layers.1.gate_up.bias"].shape == (192,)


def test_the_manifest_describes_the_folder(llama: Path, tmp_path: Path) -> None:
    choice = Choice("torch", (Target(gpu="nvidia-l4", compute_capability="8.9"),))
    written = compiled(llama, tmp_path / "engine", choice, max_model_len=100, max_batch_size=3, max_num_tokens=7)
    assert manifest.read(tmp_path / "engine") == written
    manifest.verify(tmp_path / "engine", written)
    assert set(written.files) == set(content(tmp_path / "engine")) - {"engine.json"}
    assert {name for name in written.files if name.startswith("tokenizer/")} == {
        f"tokenizer/{name}"
        for name in (
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
        )
    }
    assert (written.model.source, written.model.architecture) == (str(llama), "LlamaForCausalLM")
    assert (written.backend.name, written.backend.version) == ("torch", written.backend.torch)
    assert written.backend.torch == torch.__version__.partition("+")[0]
    assert written.targets == choice.targets
    limits = written.limits
    assert (limits.max_model_len, limits.max_batch_size, limits.max_num_tokens) == (100, 3, 7)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_weights_are_cast(dtype: Any, llama: Path, tmp_path: Path) -> None:
    written = compiled(llama, tmp_path / "engine", dtype=dtype)
    ours = tensors(tmp_path / "engine")["embed.weight"]
    theirs = load_file(llama / "model.safetensors")["model.embed_tokens.weight"]
    assert written.precision.dtype == dtype
    assert torch.equal(ours, theirs.to(getattr(torch, dtype)))


def test_bfloat16_is_the_default(llama: Path) -> None:
    assert EngineConfig(checkpoint=str(llama)).dtype == "bfloat16"


def test_what_float16_cannot_hold_is_named(llama: Path, tmp_path: Path) -> None:
    edit_weights(llama, lambda t: t["model.layers.1.mlp.down_proj.weight"].view(-1)[5].fill_(-70000.0))
    with pytest.raises(TrtpackError, match=r"layers\.1\.mlp\.down_proj\.weight holds -7e\+04, beyond the 6\.55e\+04"):
        compiled(llama, tmp_path / "engine", dtype="float16")
    compiled(llama, tmp_path / "engine", dtype="bfloat16")


def test_twice_gives_the_same_bytes(llama: Path, tmp_path: Path) -> None:
    compiled(llama, tmp_path / "one")
    compiled(llama, tmp_path / "two")
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_every_file_can_be_read_by_the_images_user(llama: Path, tmp_path: Path) -> None:
    compiled(llama, tmp_path / "engine")
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in (tmp_path / "engine").rglob("*"))


def test_the_default_length_is_the_models_own(llama: Path, tmp_path: Path) -> None:
    assert compiled(llama, tmp_path / "engine").limits.max_model_len == 512


def test_a_length_beyond_the_models_is_refused(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"max_model_len is 513, but .* was trained for 512"):
        compiled(llama, tmp_path / "engine", max_model_len=513)
    assert not (tmp_path / "engine").exists()


def test_a_missing_tensor_is_named(llama: Path, tmp_path: Path) -> None:
    edit_weights(llama, lambda t: t.pop("model.layers.2.self_attn.k_proj.weight"))
    with pytest.raises(TrtpackError, match=r"has no tensor model\.layers\.2\.self_attn\.k_proj\.weight"):
        compiled(llama, tmp_path / "engine")


def test_an_unexpected_tensor_is_named(llama: Path, tmp_path: Path) -> None:
    edit_weights(llama, lambda t: t.update({"model.layers.0.mlp.router.weight": torch.zeros(2)}))
    with pytest.raises(TrtpackError, match=r"model\.layers\.0\.mlp\.router\.weight has no place in LlamaForCausalLM"):
        compiled(llama, tmp_path / "engine")


def test_a_wrong_shape_is_named(llama: Path, tmp_path: Path) -> None:
    edit_weights(llama, lambda t: t.update({"model.layers.0.self_attn.v_proj.weight": torch.zeros(8, 64)}))
    with pytest.raises(TrtpackError, match=r"v_proj\.weight has shape \[8, 64\], expected \[32, 64\]"):
        compiled(llama, tmp_path / "engine")


def test_what_the_runtime_computes_may_be_stored(llama: Path, tmp_path: Path) -> None:
    edit_weights(llama, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)}))
    compiled(llama, tmp_path / "engine")
    assert not any("inv_freq" in name for name in tensors(tmp_path / "engine"))


def test_a_head_stored_though_tied_is_left_out(tmp_path: Path) -> None:
    folder = make_checkpoint("llama", tmp_path / "hf", tie_word_embeddings=True)
    edit_weights(folder, lambda t: t.update({"lm_head.weight": torch.zeros(320, 64)}))
    compiled(folder, tmp_path / "engine")
    assert "head.weight" not in tensors(tmp_path / "engine")


def test_shards_stay_under_their_limit(tmp_path: Path) -> None:
    writer = weights.Writer(tmp_path, "model", shard_bytes=100)
    given = {f"t{index}": torch.full((index + 1, 5), index, dtype=torch.float32) for index in range(9)}
    for name, tensor in given.items():
        writer.add(name, tensor)
    writer.flush()
    writer.flush()
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == [f"model-{number:05d}.safetensors" for number in range(1, len(files) + 1)]
    shards = [load_file(path) for path in files]
    assert all(len(shard) == 1 or sum(t.nbytes for t in shard.values()) <= 100 for shard in shards)
    assert [name for shard in shards for name in sorted(shard)] == list(given)
    assert all(torch.equal(tensor, given[name]) for shard in shards for name, tensor in shard.items())


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({}, {}, Generation()),
        ({"eos_token_id": 2}, {}, Generation(eos_token_ids=(2,))),
        ({"eos_token_id": [7, 2]}, {"eos_token_id": 2}, Generation(eos_token_ids=(7, 2))),
        ({"eos_token_id": 7}, {"eos_token_id": [2, 3]}, Generation(eos_token_ids=(7, 2, 3))),
        ({"eos_token_id": 0}, {"eos_token_id": None}, Generation(eos_token_ids=(0,))),
        ({"temperature": 0.6, "top_k": 20, "top_p": 0.9}, {}, Generation()),
        ({"do_sample": False, "temperature": 0.6}, {}, Generation()),
        ({"do_sample": True}, {}, Generation(temperature=1.0)),
        (
            {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.9},
            {},
            Generation(temperature=0.6, top_k=20, top_p=0.9),
        ),
    ],
)
def test_generation_defaults(generation: dict[str, Any], config: dict[str, Any], expected: Generation) -> None:
    assert defaults(generation, config) == expected


def test_generation_defaults_reach_the_manifest(llama: Path, tmp_path: Path) -> None:
    (llama / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.3, "eos_token_id": [0, 2]}')
    written = compiled(llama, tmp_path / "engine")
    assert written.generation == Generation(eos_token_ids=(0, 2), temperature=0.3)
    kept = json.loads((tmp_path / "engine/tokenizer/generation_config.json").read_text())
    assert kept["temperature"] == 0.3


def test_a_disk_too_small_is_told_before_anything_is_written(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(TrtpackError, match=r"is full: the engine needs .* GB") as caught:
        compiled(llama, tmp_path / "engine")
    assert "--out" in str(caught.value.hint)
    assert [path.name for path in tmp_path.iterdir()] == ["llama"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_disk_that_fills_up_leaves_the_old_engine(
    error: Exception, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = compiled(llama, tmp_path / "engine")

    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(TrtpackError, match="is full"):
        compiled(llama, tmp_path / "engine", dtype="float16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engine", "llama"]
    assert manifest.read(tmp_path / "engine") == before
    manifest.verify(tmp_path / "engine", before)


def test_a_draft_model_is_compiled_within(llama: Path, tmp_path: Path) -> None:
    """Within the model's limits or its own, and never quantised."""
    small = make_checkpoint("qwen3", tmp_path / "small", max_position_embeddings=256)
    out = tmp_path / "engine"
    written = compiled(llama, out, quantization="int8", max_batch_size=7, **drafted(small))
    draft = manifest.read(out / "draft")
    manifest.verify(out / "draft", draft)
    assert written.speculation == Speculation(method="draft_model", tokens=3)
    assert not [name for name in written.files if name.startswith("draft/")]
    assert (draft.model.architecture, draft.speculation) == ("Qwen3ForCausalLM", None)
    assert (draft.precision.dtype, draft.precision.quantization) == ("float32", None)
    assert (draft.limits.max_model_len, draft.limits.max_batch_size) == (256, 7)


def test_a_draft_model_of_another_vocabulary_leaves_no_engine(llama: Path, tmp_path: Path) -> None:
    small = make_checkpoint("qwen3", tmp_path / "small")
    tokenizer = small / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("<|im_end|>", "<|the_end|>"))
    with pytest.raises(TrtpackError, match="another vocabulary"):
        compiled(llama, tmp_path / "engine", **drafted(small))
    assert not (tmp_path / "engine").exists()


def drafted(small: Path) -> dict[str, Any]:
    return {"speculation": {"method": "draft_model", "tokens": 3, "checkpoint": str(small)}}


@pytest.mark.parametrize(
    "wrong", [{"method": "draft_model"}, {"method": "prompt_lookup", "checkpoint": "a"}, {"method": "eagle"}, {}]
)
def test_speculation_that_cannot_be(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="speculation"):
        EngineConfig.model_validate({"checkpoint": "a", "speculation": wrong})
