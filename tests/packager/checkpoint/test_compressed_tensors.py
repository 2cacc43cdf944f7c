"""compressed-tensors folders, written by that library: read as the library itself dequantises them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor, ModelCompressor
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    apply_quantization_config,
)
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from packager.checkpoint import open_checkpoint
from packager.errors import TrtpackError
from tests.packager.checkpoint.packers import Change, Parts, drop, edit, opened, put, same, say

Q = "model.layers.0.self_attn.q_proj"
FP8_INPUTS = QuantizationArgs(num_bits=8, type="float", strategy="tensor")
INT8_INPUTS = QuantizationArgs(num_bits=8, type="int", strategy="token", dynamic=True)


def scheme(targets: str = "Linear", inputs: QuantizationArgs | None = None, **weights: Any) -> QuantizationScheme:
    return QuantizationScheme(targets=[targets], weights=QuantizationArgs(**weights), input_activations=inputs)


def compress(folder: Path, *schemes: QuantizationScheme, **changes: Any) -> Parts:
    """Has the library quantise a folder's model, round to nearest, all but the head; returns what it makes of it."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    groups = {f"group_{index}": each for index, each in enumerate(schemes)}
    apply_quantization_config(model, QuantizationConfig(config_groups=groups, ignore=["lm_head"], **changes))
    for module in model.modules():
        if isinstance(module, nn.Linear) and hasattr(module, "weight_scale"):
            calibrate(module)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    expected = {}
    for name, module in model.named_modules():
        if hasattr(module, "weight_scale"):
            reader = BaseCompressor.get_value_from_registry(module.quantization_scheme.format)
            expected[f"{name}.weight"] = reader.decompress(module.state_dict(), module.quantization_scheme)["weight"]
        elif isinstance(weight := getattr(module, "weight", None), nn.Parameter):
            expected[f"{name}.weight"] = weight.data
    model.save_pretrained(folder)
    compressor.update_config(folder)
    return expected


def calibrate(module: nn.Linear) -> None:
    """Scales and zero points from the extremes of what shares them."""
    args = module.quantization_scheme.weights
    weight, size = module.weight.data, {"group": args.group_size, "channel": module.in_features}.get(args.strategy)
    if args.strategy == "block":
        height, width = args.block_structure
        blocks = weight.unflatten(1, (-1, width)).unflatten(0, (-1, height))
        low, high = blocks.amin((1, 3)), blocks.amax((1, 3))
    elif size:
        low, high = weight.unflatten(1, (-1, size)).amin(-1), weight.unflatten(1, (-1, size)).amax(-1)
    else:
        low, high = weight.min().reshape(1), weight.max().reshape(1)
    scale, zero = calculate_qparams(low, high, args)
    module.weight_scale.data.copy_(scale)
    if hasattr(module, "weight_zero_point"):
        module.weight_zero_point.data.copy_(zero)


@pytest.mark.parametrize(
    ("one", "stored"),
    [
        (scheme(num_bits=4, strategy="group", group_size=32), "4 bits, group 32, symmetric"),
        (scheme(num_bits=4, strategy="group", group_size=32, symmetric=False), "4 bits, group 32, asymmetric"),
        (scheme(num_bits=4, strategy="channel", symmetric=False), "4 bits, one scale a row, asymmetric"),
        (scheme(num_bits=8, strategy="group", group_size=16, symmetric=False), "8 bits, group 16, asymmetric"),
        (scheme(num_bits=8, strategy="channel"), "8 bits, one scale a row, symmetric"),
        (scheme(num_bits=8, strategy="tensor", symmetric=False), "8 bits, one scale a tensor, asymmetric"),
        (scheme(inputs=INT8_INPUTS, num_bits=8, strategy="channel"), "8 bits, one scale a row, symmetric"),
        (scheme(inputs=INT8_INPUTS, num_bits=8, strategy="channel", symmetric=False), "8 bits, one scale a row, asym"),
        (scheme(inputs=FP8_INPUTS, num_bits=8, type="float", strategy="tensor"), "fp8, one scale a tensor"),
        (scheme(inputs=FP8_INPUTS, num_bits=8, type="float", strategy="channel"), "fp8, one scale a row"),
        (scheme(num_bits=8, type="float", strategy="block", block_structure=[32, 16]), "fp8, blocks of 32 x 16"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_format_is_what_the_library_reads_of_it(one: QuantizationScheme, stored: str, one_layer: Path) -> None:
    expected = compress(one_layer, one)
    checkpoint = opened(one_layer)
    assert same(checkpoint, expected)
    assert str(checkpoint.stored).startswith(f"compressed-tensors, {stored}")


def test_formats_and_schemes_may_differ_by_layer(one_layer: Path) -> None:
    """A name or pattern goes before a class, in whichever order they stand."""
    common = scheme(inputs=FP8_INPUTS, num_bits=8, type="float", strategy="channel")
    expected = compress(one_layer, common, scheme("re:.*down_proj$", num_bits=4, strategy="group", group_size=32))
    checkpoint = opened(one_layer)
    assert same(checkpoint, expected)
    assert checkpoint.stored == "compressed-tensors, fp8, one scale a row, symmetric; 4 bits, group 32, symmetric"


def test_scales_of_the_cache_are_left_aside(one_layer: Path) -> None:
    cache = QuantizationArgs(num_bits=8, type="float", strategy="tensor")
    expected = compress(one_layer, scheme(num_bits=4, strategy="group", group_size=32), kv_cache_scheme=cache)
    assert any(name.endswith("k_scale") for name in load_file(one_layer / "model.safetensors"))
    assert same(opened(one_layer), expected)


def test_half_precision_scales_dequantise_in_float32(one_layer: Path) -> None:
    """The library rounds to the scale's type, which a compile to another type would then round again."""
    compress(one_layer, scheme(num_bits=4, strategy="group", group_size=32))
    name = f"{Q}.weight_scale"
    edit(one_layer, lambda tensors: tensors.update({name: tensors[name].bfloat16()}))
    parts = load_file(one_layer / "model.safetensors")
    values = unpack_from_int32(parts[f"{Q}.weight_packed"], 4, torch.Size(parts[f"{Q}.weight_shape"]))
    exact = values.double() * parts[name].double().repeat_interleave(32, 1)
    weight = opened(one_layer).get(f"{Q}.weight")
    assert weight.dtype is torch.float32
    assert torch.equal(weight.double(), exact)


def test_zero_points_of_older_releases_are_not_packed(one_layer: Path) -> None:
    expected = compress(one_layer, scheme(num_bits=4, strategy="group", group_size=32, symmetric=False))

    def change(tensors: Parts) -> None:
        for name in [name for name in tensors if name.endswith("weight_zero_point")]:
            scale = tensors[name.replace("zero_point", "scale")]
            tensors[name] = unpack_from_int32(tensors[name], 4, scale.shape, packed_dim=0).contiguous()

    edit(one_layer, change)
    assert same(opened(one_layer), expected)


def test_groups_of_older_releases_may_be_scattered(one_layer: Path) -> None:
    """weight_g_idx, of actorder "group": feature i has the scale of group g_idx[i]."""
    compress(one_layer, scheme(num_bits=4, strategy="group", group_size=32))
    before = opened(one_layer).get(f"{Q}.weight")
    parts = load_file(one_layer / "model.safetensors")
    index, scale = torch.arange(64).int() % 2, parts[f"{Q}.weight_scale"]
    steps = before / scale.repeat_interleave(32, 1)
    edit(one_layer, lambda tensors: tensors.update({f"{Q}.weight_g_idx": index}))
    after = opened(one_layer).get(f"{Q}.weight")
    torch.testing.assert_close(after, steps.round() * scale[:, index.long()])
    edit(one_layer, lambda tensors: tensors.update({f"{Q}.weight_g_idx": torch.full((64,), -1).int()}))
    assert torch.equal(opened(one_layer).get(f"{Q}.weight"), before)


def group(**weights: Any) -> dict[str, Any]:
    common = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    return {"group_0": {"targets": ["Linear"], "weights": {**common, **weights}, "format": "pack-quantized"}}


def test_a_cache_alone_may_be_quantised(one_layer: Path) -> None:
    say(one_layer, {"quant_method": "compressed-tensors", "config_groups": {}, "format": "dense"})
    checkpoint = opened(one_layer)
    assert checkpoint.stored is None
    assert same(checkpoint, load_file(one_layer / "model.safetensors"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"config_groups": {"g": {**group()["group_0"], "format": None}}, "format": "marlin-24"},
            "marlin-24 is not read",
        ),
        (
            {"config_groups": {"g": {**group()["group_0"], "format": "nvfp4-pack-quantized"}}},
            "format nvfp4-pack-quantized is not read; read: float-quantized",
        ),
        ({"config_groups": {"g": {**group()["group_0"], "format": "mxfp4-pack-quantized"}}}, "mxfp4-pack-quantized"),
        ({"config_groups": group(num_bits=3)}, "3-bit int is not read; read: 4-bit and 8-bit int, 8-bit float"),
        ({"config_groups": group(type="float")}, "4-bit float is not read"),
        ({"config_groups": group(strategy="token")}, "strategy: Input should be .*, found 'token'"),
        ({"config_groups": {"group_0": {"targets": ["re:("], "weights": None}}}, "re:\\( is not a pattern"),
        ({"config_groups": ["W4A16"]}, "config_groups: Input should be a valid dict"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse format sparse-24-bitmask is not read"),
        ({"transform_config": {"config_groups": {"R3": {"type": "hadamard"}}}}, "transform_config rotates"),
    ],
)
def test_what_is_not_read_is_refused_by_name(changes: dict[str, Any], message: str, one_layer: Path) -> None:
    say(one_layer, {"quant_method": "compressed-tensors", "config_groups": group(), **changes})
    with pytest.raises(TrtpackError, match=f"quantised with compressed-tensors: .*{message}") as caught:
        open_checkpoint(str(one_layer), Path())
    assert "\n" not in caught.value.message
    assert "unquantised original" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("changes", "change", "message"),
    [
        ({}, drop(f"{Q}.weight_scale"), "q_proj has .* but no weight_scale"),
        ({}, drop(f"{Q}.weight_shape"), "q_proj has .* but no weight_shape"),
        ({}, drop(f"{Q}.weight_zero_point"), "q_proj has .* but no weight_zero_point"),
        ({}, put(f"{Q}.weight_scale", torch.ones(64, 3)), r"weight_scale has shape \[64, 3\], expected \[64, 2\]"),
        (
            {},
            put(f"{Q}.weight_shape", torch.tensor([64, 65])),
            r"weight_packed has shape \[64, 8\], expected \[64, 9\]",
        ),
        ({}, put(f"{Q}.weight_zero_point", torch.zeros(64, 2)), "weight_zero_point is stored as F32, expected I8"),
        ({"config_groups": group(num_bits=8)}, dict, r"weight_packed has shape \[64, 12\], expected \[64, 24\]"),
        ({"config_groups": group(group_size=16)}, dict, r"weight_scale has shape .* expected"),
        ({"config_groups": {"g": {**group()["group_0"], "targets": ["lm_head"]}}}, dict, "no entry of config_groups"),
    ],
)
def test_bad_files_are_named(changes: dict[str, Any], change: Change, message: str, one_layer: Path) -> None:
    compress(one_layer, scheme(num_bits=4, strategy="group", group_size=32, symmetric=False))
    config = json.loads((one_layer / "config.json").read_text())
    say(one_layer, config["quantization_config"] | changes)
    edit(one_layer, change)
    with pytest.raises(
        TrtpackError, match=re.escape(str(one_layer / "model.safetensors")) + ": .*" + message
    ) as caught:
        open_checkpoint(str(one_layer), Path())
    assert "\n" not in caught.value.message
