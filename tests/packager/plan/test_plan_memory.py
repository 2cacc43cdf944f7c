"""Bytes of Llama 3, worked out by hand from its published shapes."""

from typing import Any, get_args

import pytest

from k8s.gpus import find
from packager.errors import TrtpackError
from packager.plan.memory import kv_bytes, memory, weight_bytes
from runtime.engine.manifest import Limits, Precision, Quantization, Scheme
from runtime.model.families import parse
from tests.packager.plan.configs import LLAMA_3_8B, LLAMA_3_70B

BF16 = Precision(dtype="bfloat16")
LIMITS = Limits(max_model_len=8192, max_batch_size=64, max_num_tokens=8192)

# Of one 8B layer: 4096 inputs to (32 + 2 · 8) · 128 query, key and value rows; as many to o; gate and up; down.
LINEAR_8B = 6144 * 4096 + 4096 * 4096 + 2 * 14336 * 4096 + 4096 * 14336
# Of one 70B layer: 8192 inputs to (64 + 2 · 8) · 128 rows; o; gate and up; down.
LINEAR_70B = 10240 * 8192 + 8192 * 8192 + 2 * 28672 * 8192 + 8192 * 28672


def quantized(scheme: Scheme, group_size: int | None = None) -> Precision:
    return Precision(dtype="bfloat16", quantization=Quantization(scheme=scheme, group_size=group_size))


def test_weights_of_8b() -> None:
    assert LINEAR_8B == 218_103_808
    # embedding + 32 · (linear layers + two norms) + last norm + head = 8.03 billion parameters, of 2 bytes
    parameters = 128256 * 4096 + 32 * (218_103_808 + 2 * 4096) + 4096 + 128256 * 4096
    assert parameters == 8_030_261_248
    assert weight_bytes(parse(LLAMA_3_8B), BF16) == 16_060_522_496
    assert weight_bytes(parse(LLAMA_3_8B), Precision(dtype="float32")) == 32_121_044_992


def test_weights_of_70b() -> None:
    assert LINEAR_70B == 855_638_016
    parameters = 128256 * 8192 + 80 * (855_638_016 + 2 * 8192) + 8192 + 128256 * 8192
    assert parameters == 70_553_706_496
    assert weight_bytes(parse(LLAMA_3_70B), BF16) == 141_107_412_992


def test_a_tied_embedding_counts_once() -> None:
    # 16,060,522,496 - the head's 128256 · 4096 · 2
    assert weight_bytes(parse({**LLAMA_3_8B, "tie_word_embeddings": True}), BF16) == 15_009_849_344


# What stays in 2 bytes: embedding and head, 128256 · 4096 each, and 65 norms of 4096.
UNQUANTIZED_8B = (2 * 128256 * 4096 + 65 * 4096) * 2
# A scale for each of a layer's 6144 + 4096 + 28672 + 4096 rows, in 2 bytes.
ROW_SCALES_8B = 32 * 43_008 * 2


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        (quantized("int8"), UNQUANTIZED_8B + 32 * 218_103_808 + ROW_SCALES_8B),
        (quantized("fp8"), UNQUANTIZED_8B + 32 * 218_103_808 + ROW_SCALES_8B + 32 * 4 * 2),  # 4 input scales a layer
        (quantized("smoothquant"), UNQUANTIZED_8B + 32 * 218_103_808 + ROW_SCALES_8B + 32 * 4 * 2),
        # two values a byte, and 2 bytes of scale for every 128 or 32 of them
        (quantized("int4", 128), UNQUANTIZED_8B + 32 * (218_103_808 // 2 + 218_103_808 // 128 * 2)),
        (quantized("int4", 32), UNQUANTIZED_8B + 32 * (218_103_808 // 2 + 218_103_808 // 32 * 2)),
    ],
    ids=lambda value: value.quantization.scheme if isinstance(value, Precision) else None,
)
def test_quantized_weights_of_8b(precision: Precision, expected: int) -> None:
    assert weight_bytes(parse(LLAMA_3_8B), precision) == expected


def test_every_scheme_has_a_size() -> None:
    sizes = {scheme: weight_bytes(parse(LLAMA_3_8B), quantized(scheme)) for scheme in get_args(Scheme)}
    assert max(sizes.values()) < 9.1e9
    assert min(sizes, key=lambda scheme: sizes[scheme]) == "int4"


def narrow(**fields: Any) -> dict[str, Any]:
    """A model whose rows of 4160 = 65 · 64 inputs no group of 128 divides."""
    return {**LLAMA_3_8B, "hidden_size": 4160, "head_dim": 128, "num_hidden_layers": 1, **fields}


def test_a_group_that_does_not_divide_a_row_becomes_smaller() -> None:
    # qkv 6144 and gate_up 28672 rows of 4160 in groups of 64; o and down of 4096 and 14336 inputs in groups of 128
    linear = (6144 + 28672) * 4160, 4160 * (4096 + 14336)
    scales = linear[0] // 64 + linear[1] // 128
    others = 2 * 128256 * 4160 + 3 * 4160
    expected = sum(linear) // 2 + (scales + others) * 2
    assert weight_bytes(parse(narrow()), quantized("int4", 128)) == expected
    with pytest.raises(TrtpackError, match=r"layers\.0\.qkv has 4112 input features, which neither groups of 128"):
        weight_bytes(parse(narrow(hidden_size=4112)), quantized("int4", 128))


def test_kv_cache_of_a_token() -> None:
    # keys and values · layers · 8 KV heads · 128 · 2 bytes
    assert kv_bytes(parse(LLAMA_3_8B), BF16) == 2 * 32 * 8 * 128 * 2 == 131_072
    assert kv_bytes(parse(LLAMA_3_70B), BF16) == 2 * 80 * 8 * 128 * 2 == 327_680
    assert kv_bytes(parse(LLAMA_3_8B), quantized("fp8")) == 131_072


def test_8b_on_an_l4() -> None:
    found = memory(find("L4"), parse(LLAMA_3_8B), BF16, LIMITS)
    assert found.left == 24_000_000_000 - 16_060_522_496 == 7_939_477_504
    # 7,939,477,504 · 0.9 / (16 · 131,072) = 3407.3
    assert found.blocks == 3407
    assert found.tokens == 3407 * 16 == 54_512
    # 3407 / 512 blocks of a sequence of 8192 tokens = 6.7
    assert found.sequences(8192) == 6
    # 17 tokens take two blocks: 3407 / 2
    assert found.sequences(17) == 1703
    assert found.fits
    assert found.gpus == 1


def test_the_share_of_memory_is_the_engine_s() -> None:
    half = memory(find("L4"), parse(LLAMA_3_8B), BF16, LIMITS.model_copy(update={"kv_cache_fraction": 0.5}))
    assert half.blocks == 1892  # 7,939,477,504 · 0.5 / (16 · 131,072) = 1892.9


@pytest.mark.parametrize(
    ("gpu", "gpus"),
    [
        # (141,107,412,992 + 8192 · 327,680 / 0.9) / 80e9 = 1.8; / 24e9 = 6.004; / 180e9 = 0.8
        ("H100", 2),
        ("L4", 7),
        ("B200", 1),
    ],
)
def test_70b_needs_more_than_one(gpu: str, gpus: int) -> None:
    found = memory(find(gpu), parse(LLAMA_3_70B), BF16, LIMITS)
    assert found.gpus == gpus
    assert found.fits == (gpus == 1)
    assert (found.blocks > 0) == (gpus == 1)


def test_weights_may_fit_and_the_longest_sequence_not() -> None:
    long = parse({**LLAMA_3_8B, "max_position_embeddings": 131072})
    found = memory(find("L4"), long, BF16, LIMITS.model_copy(update={"max_model_len": 131072}))
    assert found.left > 0
    assert found.tokens == 54_512
    assert not found.fits
    assert found.gpus == 2  # (16.06e9 + 131072 · 131,072 / 0.9) / 24e9 = 1.46
