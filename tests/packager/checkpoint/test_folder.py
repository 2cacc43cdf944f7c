"""Hugging Face folders: what is read, and what is refused by name."""

import json
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from packager.checkpoint import open_checkpoint
from packager.errors import TrtpackError
from tests.tiny import CHAT_TEMPLATE, FAMILIES, make_checkpoint


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return make_checkpoint("llama", tmp_path / "llama")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = make_checkpoint("llama", tmp_path / "sharded", max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


def edit(path: Path, **changes: object) -> None:
    """Replaces keys of a JSON file; None removes one."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_is_transformers_own(family: str, tmp_path: Path) -> None:
    folder = make_checkpoint(family, tmp_path / "hf")
    checkpoint = open_checkpoint("hf", tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder)
    parameters = dict(model.named_parameters())
    assert set(checkpoint.shapes) == set(parameters)
    for name, parameter in parameters.items():
        assert checkpoint.shapes[name] == tuple(parameter.shape)
        assert torch.equal(checkpoint.get(name), parameter)


def test_sharded_and_single_are_the_same(llama: Path, sharded: Path) -> None:
    one, many = open_checkpoint(str(llama), Path()), open_checkpoint(str(sharded), Path())
    assert one.shapes == many.shapes
    assert all(torch.equal(one.get(name), many.get(name)) for name in one.shapes)
    with pytest.raises(KeyError):
        one.get("nothing.weight")


def test_the_source_is_kept_as_named_and_relative_to_base(llama: Path) -> None:
    checkpoint = open_checkpoint("llama", llama.parent)
    assert (checkpoint.source, checkpoint.revision) == ("llama", None)
    assert checkpoint.generation["eos_token_id"] == 2


def test_a_missing_shard_is_named(sharded: Path) -> None:
    gone = sorted(sharded.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(TrtpackError, match=f"{gone.name} is missing"):
        open_checkpoint(str(sharded), Path())


@pytest.mark.parametrize("kept", [0, 5, 40, -1])
def test_a_truncated_shard_is_named(kept: int, sharded: Path) -> None:
    path = sorted(sharded.glob("model-*.safetensors"))[1]
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    found = len(whole[:kept])
    expected = len(whole) if kept == -1 else "at least"
    with pytest.raises(TrtpackError, match=f"{path.name} is truncated: expected {expected}.*, found {found}"):
        open_checkpoint(str(sharded), Path())


def test_a_tensor_the_index_promises_is_named(sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    files = json.loads(index.read_text())["weight_map"]
    edit(index, weight_map={**files, "model.extra.weight": files["model.norm.weight"]})
    with pytest.raises(TrtpackError, match=r"does not hold model\.extra\.weight"):
        open_checkpoint(str(sharded), Path())


@pytest.mark.parametrize("file", ["pytorch_model.bin", "../other/model.safetensors"])
def test_an_index_names_only_safetensors_beside_it(file: str, sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    files = json.loads(index.read_text())["weight_map"]
    edit(index, weight_map={**files, "model.norm.weight": file})
    with pytest.raises(TrtpackError, match="only safetensors files beside it"):
        open_checkpoint(str(sharded), Path())


def test_a_git_lfs_pointer_is_told(llama: Path) -> None:
    (llama / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(TrtpackError, match="Git LFS pointer") as caught:
        open_checkpoint(str(llama), Path())
    assert "git lfs pull" in str(caught.value.hint)


@pytest.mark.parametrize("header", [b"not json at all!", b'{"a": {"dtype": "F32"}}', b"[1, 2, 3, 4, 5]", b'{"a": 3}'])
def test_a_broken_header_is_told(header: bytes, llama: Path) -> None:
    (llama / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(TrtpackError, match="not a readable safetensors file"):
        open_checkpoint(str(llama), Path())


def test_integer_weights_are_refused(llama: Path) -> None:
    save_file({"model.norm.weight": torch.zeros(4, dtype=torch.int8)}, llama / "model.safetensors")
    with pytest.raises(TrtpackError, match=r"model\.norm\.weight is stored as I8"):
        open_checkpoint(str(llama), Path())


class Boom:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickles_are_refused_unread(name: str, llama: Path) -> None:
    (llama / "model.safetensors").unlink()
    (llama / name).write_bytes(pickle.dumps(Boom()))
    with pytest.raises(TrtpackError, match=f"only pickled weights \\({name}\\)") as caught:
        open_checkpoint(str(llama), Path())
    assert "save_pretrained" in str(caught.value.hint)


def test_no_weights_at_all(llama: Path) -> None:
    (llama / "model.safetensors").unlink()
    with pytest.raises(TrtpackError, match=r"holds no model\.safetensors"):
        open_checkpoint(str(llama), Path())


def test_other_quantisations_are_refused(llama: Path) -> None:
    edit(llama / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(TrtpackError, match=r"is quantised \(bitsandbytes\), which is not read"):
        open_checkpoint(str(llama), Path())


def test_an_unsupported_architecture_lists_the_supported(llama: Path) -> None:
    edit(llama / "config.json", architectures=["MambaForCausalLM"])
    with pytest.raises(TrtpackError, match="MambaForCausalLM is not supported; supported: LlamaForCausalLM, Mistral"):
        open_checkpoint(str(llama), Path())


def test_a_config_that_contradicts_itself_takes_one_line(llama: Path) -> None:
    edit(llama / "config.json", num_key_value_heads=3)
    with pytest.raises(TrtpackError, match="4 query heads do not divide into 3 KV heads") as caught:
        open_checkpoint(str(llama), Path())
    assert "\n" not in caught.value.message


def test_broken_json_is_named(llama: Path) -> None:
    (llama / "config.json").write_text("{")
    with pytest.raises(TrtpackError, match=r"config\.json is not valid JSON"):
        open_checkpoint(str(llama), Path())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere does not exist"),
        ("oci://registry/model:1", "not available yet"),
        ("ftp://host/model", "unknown scheme"),
        ("notes.txt", "is not a checkpoint"),
    ],
)
def test_other_sources_are_refused(source: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(TrtpackError, match=message):
        open_checkpoint(source, tmp_path)


def test_the_tokenizer_is_copied_with_its_template_apart(llama: Path, tmp_path: Path) -> None:
    open_checkpoint(str(llama), Path()).write_tokenizer(out := empty(tmp_path))
    assert (out / "tokenizer.json").read_bytes() == (llama / "tokenizer.json").read_bytes()
    assert (out / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    assert json.loads((out / "tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"


@pytest.mark.parametrize(
    "template", ["inline", [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "inline"}]]
)
def test_a_template_inside_the_config_is_found(template: object, llama: Path, tmp_path: Path) -> None:
    (llama / "chat_template.jinja").unlink()
    edit(llama / "tokenizer_config.json", chat_template=template)
    open_checkpoint(str(llama), Path()).write_tokenizer(out := empty(tmp_path))
    assert (out / "chat_template.jinja").read_text() == "inline"
    assert "chat_template" not in json.loads((out / "tokenizer_config.json").read_text())


def test_a_template_in_a_json_of_its_own_is_found(llama: Path, tmp_path: Path) -> None:
    (llama / "chat_template.jinja").unlink()
    (llama / "chat_template.json").write_text('{"chat_template": "apart"}')
    open_checkpoint(str(llama), Path()).write_tokenizer(out := empty(tmp_path))
    assert (out / "chat_template.jinja").read_text() == "apart"


def test_a_slow_tokenizer_is_converted(llama: Path, tmp_path: Path) -> None:
    """vocab.json and merges.txt, as GPT-2 and early Qwen2 checkpoints have them."""
    from tokenizers import Tokenizer

    model = json.loads((llama / "tokenizer.json").read_text())["model"]
    before = Tokenizer.from_file(str(llama / "tokenizer.json")).encode("the quick brown fox").ids
    (llama / "tokenizer.json").unlink()
    (llama / "vocab.json").write_text(json.dumps(model["vocab"]))
    (llama / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(merge) for merge in model["merges"]))
    (llama / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    open_checkpoint(str(llama), Path()).write_tokenizer(out := empty(tmp_path))
    assert Tokenizer.from_file(str(out / "tokenizer.json")).encode("the quick brown fox").ids == before


def test_no_tokenizer_is_told(llama: Path, tmp_path: Path) -> None:
    (llama / "tokenizer.json").unlink()
    with pytest.raises(TrtpackError, match=r"has no tokenizer\.json"):
        open_checkpoint(str(llama), Path()).write_tokenizer(empty(tmp_path))


def test_a_broken_tokenizer_is_told(llama: Path, tmp_path: Path) -> None:
    (llama / "tokenizer.json").write_text("{}")
    with pytest.raises(TrtpackError, match=r"tokenizer\.json is not a tokenizer"):
        open_checkpoint(str(llama), Path()).write_tokenizer(empty(tmp_path))


def test_remote_code_is_never_run(llama: Path, tmp_path: Path) -> None:
    (llama / "tokenizer.json").unlink()
    (llama / "evil.py").write_text("raise SystemExit('remote code was run')")
    (llama / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}'
    )
    with pytest.raises(TrtpackError, match=r"has no tokenizer\.json"):
        open_checkpoint(str(llama), Path()).write_tokenizer(empty(tmp_path))


def empty(folder: Path) -> Path:
    (folder / "out").mkdir()
    return folder / "out"


def test_half_precision_is_read_as_stored(llama: Path) -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(llama / "model.safetensors").items()}
    save_file(tensors, llama / "model.safetensors")
    assert open_checkpoint(str(llama), Path()).get("model.norm.weight").dtype is torch.bfloat16
