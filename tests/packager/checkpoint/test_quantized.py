"""GPTQ, AWQ and fp8 folders: read as the weights that they stand for, or refused by name."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from packager.checkpoint import open_checkpoint
from packager.errors import TrtpackError
from tests.packager.checkpoint.hub_stand_in import serving
from tests.packager.checkpoint.packers import (
    Change,
    Parts,
    awq,
    drop,
    edit,
    fp8,
    gptq,
    opened,
    put,
    quantise,
    same,
    say,
    words,
)
from tests.tiny import VOCAB, make_checkpoint

Q = "model.layers.0.self_attn.q_proj"
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [48, 40]}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("bits", "size", "sym", "act_order", "stored"),
    [
        (4, 32, True, False, "gptq, 4 bits, group 32, symmetric"),
        (4, 64, False, True, "gptq, 4 bits, group 64, asymmetric, act-order"),  # 96 features: a group and a half
        (4, -1, False, False, "gptq, 4 bits, one scale a row, asymmetric"),
        (8, 32, False, False, "gptq, 8 bits, group 32, asymmetric"),
        (8, 32, True, True, "gptq, 8 bits, group 32, symmetric, act-order"),
        (8, -1, True, False, "gptq, 8 bits, one scale a row, symmetric"),
    ],
)
def test_gptq(bits: int, size: int, sym: bool, act_order: bool, stored: str, version: int, one_layer: Path) -> None:
    said = {"quant_method": "gptq", "bits": bits, "group_size": size, "sym": sym, "desc_act": act_order}
    said |= {"checkpoint_format": "gptq_v2"} if version == 2 else {}
    expected = quantise(one_layer, gptq(bits, size, sym=sym, act_order=act_order, version=version), said, head=True)
    checkpoint = opened(one_layer)
    assert same(checkpoint, expected)
    assert checkpoint.stored == stored
    assert "quantization_config" not in checkpoint.config


def test_gptq_version_2_that_calls_itself_version_1(one_layer: Path) -> None:
    expected = quantise(one_layer, gptq(4, 32, version=2), {**GPTQ, "checkpoint_format": "gptq"})
    assert same(opened(one_layer), expected)


def test_gptq_zero_points_of_zero_survive_version_1(one_layer: Path) -> None:
    """Stored less one they borrow from the next value of their word."""
    edit(
        one_layer, lambda tensors: [tensor.abs_() for name, tensor in tensors.items() if name.endswith("_proj.weight")]
    )
    expected = quantise(one_layer, gptq(4, 32, sym=False), {**GPTQ, "sym": False})
    assert (load_file(one_layer / "model.safetensors")[f"{Q}.qzeros"] != 0).all()
    assert same(opened(one_layer), expected)


@pytest.mark.parametrize("index", ["absent", "zero"])
def test_gptq_groups_are_successive_where_no_index_says_otherwise(index: str, one_layer: Path) -> None:
    expected = quantise(one_layer, gptq(4, 32), GPTQ)

    def change(tensors: Parts) -> None:
        for name in [name for name in tensors if name.endswith("g_idx")]:
            tensors[name] = torch.zeros_like(tensors[name])
            if index == "absent":
                del tensors[name]

    edit(one_layer, change)
    assert same(opened(one_layer), expected)


def test_gptq_biases_the_model_has_not_are_dropped_where_zero(tmp_path: Path) -> None:
    """Qwen2 has biases on q, k and v alone; AutoGPTQ writes one for every layer."""
    qwen = make_checkpoint("qwen2", tmp_path / "qwen2", num_hidden_layers=1)
    expected = quantise(qwen, gptq(4, 32), GPTQ)
    spare = "model.layers.0.mlp.down_proj.bias"
    edit(qwen, lambda tensors: tensors.update({spare: torch.zeros(64)}))
    assert f"{Q}.bias" in expected and same(opened(qwen), expected)
    edit(qwen, lambda tensors: tensors.update({spare: torch.ones(64)}))
    with pytest.raises(TrtpackError, match=f"{spare} has no place"):
        opened(qwen)


@pytest.mark.parametrize(
    ("size", "zero_point", "stored"),
    [
        (32, True, "awq, 4 bits, group 32, asymmetric"),
        (-1, True, "awq, 4 bits, one scale a row, asymmetric"),
        (32, False, "awq, 4 bits, group 32, symmetric"),
    ],
)
def test_awq(size: int, zero_point: bool, stored: str, one_layer: Path) -> None:
    said = {**AWQ, "version": "GEMM", "group_size": size, "zero_point": zero_point, "modules_to_not_convert": None}
    expected = quantise(one_layer, awq(size, zero_point=zero_point), said)
    checkpoint = opened(one_layer)
    assert same(checkpoint, expected)
    assert checkpoint.stored == stored


def test_awq_is_what_compressed_tensors_reads_of_it(one_layer: Path) -> None:
    from compressed_tensors.entrypoints.convert import AutoAWQConverter

    quantise(one_layer, awq(32), AWQ)
    parts = load_file(one_layer / "model.safetensors")
    qweight, scales, qzeros = (parts[f"{Q}.{part}"] for part in ("qweight", "scales", "qzeros"))
    values, scale, zero = AutoAWQConverter(group_size=32)._convert_gemm_module(qweight, scales, qzeros)
    theirs = (values - zero.repeat_interleave(32, 1)) * scale.float().repeat_interleave(32, 1)
    assert torch.equal(opened(one_layer).get(f"{Q}.weight"), theirs)


@pytest.mark.parametrize(
    ("packer", "said", "stored"),
    [
        (fp8(48, 40), FP8, "fp8, blocks of 48 x 40"),  # of 64 x 64 and 96 x 64: the last ones are cut short
        (fp8(128, 128), {**FP8, "weight_block_size": [128, 128]}, "fp8, blocks of 128 x 128"),
        (fp8(), {"quant_method": "fp8", "weight_block_size": None}, "fp8, one scale a tensor"),
        (fp8(scale_name="weight_scale"), {"quant_method": "fp8"}, "fp8, one scale a tensor"),
    ],
)
def test_fp8(packer: Any, said: dict[str, Any], stored: str, one_layer: Path) -> None:
    expected = quantise(one_layer, packer, said)
    checkpoint = opened(one_layer)
    assert same(checkpoint, expected)
    assert checkpoint.stored == stored


def test_fp8_is_what_transformers_reads_of_it(one_layer: Path) -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    quantise(one_layer, fp8(32, 16), {**FP8, "weight_block_size": [32, 16]})
    parts = load_file(one_layer / "model.safetensors")
    weight, scale = parts[f"{Q}.weight"], parts[f"{Q}.weight_scale_inv"]
    theirs = Fp8Dequantize(None)._dequantize_one(weight, scale, torch.float32)
    assert torch.equal(opened(one_layer).get(f"{Q}.weight"), theirs)


@pytest.mark.parametrize(
    ("packer", "said", "limit"),
    [
        (gptq(8, 32, sym=False), {**GPTQ, "bits": 8, "sym": False}, 1e-3),
        (gptq(4, 32, act_order=True), {**GPTQ, "desc_act": True}, 0.3),
        (awq(32), AWQ, 0.3),
        (fp8(48, 40), FP8, 0.03),
    ],
)
def test_the_model_still_predicts_the_same(packer: Any, said: dict[str, Any], limit: float, one_layer: Path) -> None:
    """KL divergence of the next token's distribution from the float model's, in nats."""
    ids = torch.arange(VOCAB).reshape(5, 64)
    model = AutoModelForCausalLM.from_pretrained(one_layer)
    with torch.inference_mode():
        before = model(ids).logits.log_softmax(-1)
        quantise(one_layer, packer, said)
        checkpoint = opened(one_layer)
        model.load_state_dict({name: checkpoint.get(name) for name in checkpoint.shapes})
        after = model(ids).logits.log_softmax(-1)
    divergence = (before.exp() * (before - after)).sum(-1).mean().item()
    assert 0 < divergence < limit


def test_scales_of_activations_and_of_the_cache_are_left_aside(one_layer: Path) -> None:
    expected = quantise(one_layer, fp8(), {"quant_method": "fp8", "activation_scheme": "static"})
    attention = Q.removesuffix(".q_proj")
    names = [f"{Q}.{part}" for part in ("input_scale", "act_scale", "activation_scale", "input_global_scale")]
    names += [f"{attention}.{part}" for part in ("k_scale", "v_scale", "q_scale", "kv_scale", "prob_output_scale")]
    names += [f"{attention}.k_proj.output_scale", f"{attention}.v_proj.input_zero_point"]
    edit(one_layer, lambda tensors: tensors.update({name: torch.tensor(1.0) for name in names}))
    assert same(opened(one_layer), expected)


def test_half_precision_layers_stay_as_stored(one_layer: Path) -> None:
    quantise(one_layer, awq(32), AWQ)
    edit(one_layer, lambda tensors: tensors.update({"lm_head.weight": tensors["lm_head.weight"].bfloat16()}))
    checkpoint = opened(one_layer)
    assert checkpoint.get("lm_head.weight").dtype is torch.bfloat16
    with pytest.raises(KeyError):
        checkpoint.get(f"{Q}.qweight")


def test_the_parts_of_a_layer_may_lie_in_several_files(one_layer: Path) -> None:
    expected = quantise(one_layer, gptq(4, 32), GPTQ)
    tensors = load_file(one_layer / "model.safetensors")
    (one_layer / "model.safetensors").unlink()
    where = {name: f"model-{number % 3}.safetensors" for number, name in enumerate(sorted(tensors))}
    for file in set(where.values()):
        save_file({name: tensor for name, tensor in tensors.items() if where[name] == file}, one_layer / file)
    (one_layer / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert same(opened(one_layer), expected)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"quant_method": "hqq"}, r"is quantised \(hqq\), which is not read; read: awq, compressed-tensors, fp8, gptq"),
        ({"quant_method": "mxfp4"}, r"is quantised \(mxfp4\), which is not read"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, r"is quantised \(modelopt\), which is not read"),
        ({"load_in_8bit": True}, "names no quant_method"),
        ({**GPTQ, "bits": 3}, "quantised with gptq: bits: Input should be 4 or 8, found 3"),
        ({**GPTQ, "checkpoint_format": "marlin"}, "'gptq' or 'gptq_v2', found 'marlin'"),
        ({**GPTQ, "is_marlin_format": True}, "is_marlin_format"),
        ({**GPTQ, "dynamic": {"+:.*down.*": {"bits": 8}}}, r"dynamic: \+:\.\*down\.\* is quantised differently"),
        ({**AWQ, "bits": 8}, "quantised with awq: bits: Input should be 4, found 8"),
        ({**AWQ, "version": "gemv_fast"}, "version: Input should be 'gemm', found 'gemv_fast'"),
        ({**FP8, "weight_block_size": [128]}, "quantised with fp8: weight_block_size.1: Field required"),
    ],
)
def test_what_is_not_read_is_refused_by_name(said: dict[str, Any], message: str, one_layer: Path) -> None:
    quantise(one_layer, gptq(4, 32), said)
    with pytest.raises(TrtpackError, match=message) as caught:
        open_checkpoint(str(one_layer), Path())
    assert "\n" not in caught.value.message
    assert "unquantised original" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("packer", "said", "change", "message"),
    [
        (gptq(4, 32), GPTQ, drop(f"{Q}.qzeros"), "q_proj has .* but no qzeros"),
        (gptq(4, 32), GPTQ, drop(f"{Q}.scales"), "q_proj has .* but no scales"),
        (gptq(4, 32), {**GPTQ, "desc_act": True}, drop(f"{Q}.g_idx"), "q_proj has .* but no g_idx"),
        (gptq(4, 32), {**GPTQ, "bits": 8}, dict, r"scales has shape \[3, 64\], expected \[2, 64\]"),
        (gptq(4, 32), {**GPTQ, "group_size": 64}, dict, r"scales has shape \[3, 64\], expected \[2, 64\]"),
        (
            gptq(4, 32),
            GPTQ,
            put(f"{Q}.qweight", torch.zeros(8, 64)),
            "q_proj.qweight is stored as F32, expected I32",
        ),
        (
            gptq(4, 32),
            GPTQ,
            put(f"{Q}.qweight", torch.zeros(8, dtype=torch.int32)),
            r"q_proj.qweight has shape \[8\]",
        ),
        (gptq(4, 32), GPTQ, put(f"{Q}.g_idx", torch.arange(64).int()), "q_proj.g_idx points to group 63, of 2"),
        (gptq(4, 32), GPTQ, put(f"{Q}.other", torch.zeros(8).int()), "q_proj.other is stored as I32"),
        (awq(32), AWQ, drop(f"{Q}.qzeros"), "q_proj has .* but no qzeros"),
        (awq(32), {**AWQ, "group_size": 128}, dict, "which groups of 128 do not divide"),
        (fp8(48, 40), FP8, drop(f"{Q}.weight_scale_inv"), "q_proj has weight but no weight_scale_inv"),
        (fp8(48, 40), {**FP8, "weight_block_size": [64, 64]}, dict, r"weight_scale_inv has shape \[2, 3\], expected"),
        (
            fp8(48, 40),
            FP8,
            put(f"{Q}.weight", torch.zeros(64, 64, dtype=torch.float8_e5m2)),
            "is stored as F8_E5M2",
        ),
    ],
)
def test_bad_files_are_named(packer: Any, said: dict[str, Any], change: Change, message: str, one_layer: Path) -> None:
    quantise(one_layer, packer, said)
    edit(one_layer, change)
    with pytest.raises(
        TrtpackError, match=re.escape(str(one_layer / "model.safetensors")) + ": .*" + message
    ) as caught:
        checkpoint = open_checkpoint(str(one_layer), Path())
        checkpoint.get(f"{Q}.weight")
    assert "\n" not in caught.value.message


def test_a_config_that_says_more_than_the_weights_is_told(one_layer: Path) -> None:
    say(one_layer, GPTQ)
    with pytest.raises(TrtpackError, match=r"said to be quantised \(gptq, 4 bits, group 32, symmetric\), but no layer"):
        open_checkpoint(str(one_layer), Path())


def test_the_hub_has_them_too(one_layer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = quantise(one_layer, awq(32), AWQ)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with serving(one_layer) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        checkpoint = open_checkpoint("hf://org/tiny", Path())
    assert same(checkpoint, expected)


def test_what_is_not_read_is_not_downloaded(one_layer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantise(one_layer, awq(32), {**AWQ, "version": "gemv"})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with serving(one_layer) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with pytest.raises(TrtpackError, match="hf://org/tiny is quantised with awq: version"):
            open_checkpoint("hf://org/tiny", Path())
    assert not hub.asked("GET", ".safetensors")


def test_words_hold_values_from_the_lowest_bits_up() -> None:
    """The packers' own premise, in numbers: AutoGPTQ ORs value i into its word at bit 4 i, or 8 i."""
    assert words(torch.arange(8), 4).item() == 0x76543210
    assert words(torch.tensor([1, 2, 3, 127]), 8).item() == 0x7F030201
