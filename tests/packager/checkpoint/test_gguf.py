"""GGUF checkpoints: what is written from a tiny Hugging Face model reads back as that model."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from packager.checkpoint import open_checkpoint
from packager.errors import TrtpackError
from tests.packager.checkpoint.ggufs import gguf_name, quantized, write_gguf
from tests.tiny import FAMILIES, make_checkpoint

Kind = gguf.GGMLQuantizationType


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 256 values, the block of the K types."""
    return make_checkpoint(
        "llama",
        tmp_path_factory.mktemp("wide"),
        hidden_size=256,
        intermediate_size=256,
        head_dim=64,
        num_hidden_layers=1,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_reads_back_the_model_it_was_written_from(family: str, tmp_path: Path) -> None:
    window = {"use_sliding_window": False} if family == "qwen2" else {}
    folder = make_checkpoint(family, tmp_path / "hf", **window)
    write_gguf(tmp_path / "model.gguf", folder)
    ours, theirs = open_checkpoint("model.gguf", tmp_path), open_checkpoint("hf", tmp_path)
    assert ours.model == theirs.model
    assert ours.architecture == theirs.architecture
    assert ours.shapes == theirs.shapes
    for name in theirs.shapes:
        assert torch.equal(ours.get(name), theirs.get(name)), name


def test_undoes_the_permutation_of_biases(tmp_path: Path) -> None:
    folder = make_checkpoint("llama", tmp_path / "hf", attention_bias=True, mlp_bias=True)
    write_gguf(tmp_path / "model.gguf", folder)
    ours = open_checkpoint("model.gguf", tmp_path)
    assert ours.model.qkv_bias and ours.model.o_bias and ours.model.mlp_bias
    for name, tensor in load_file(folder / "model.safetensors").items():
        assert torch.equal(ours.get(name), tensor), name


TOLERANCE = {
    Kind.F32: 0.0,
    Kind.F16: 0.001,
    Kind.BF16: 0.01,
    Kind.Q8_0: 0.01,
    Kind.Q5_0: 0.1,
    Kind.Q5_1: 0.1,
    Kind.Q4_0: 0.2,
    Kind.Q4_1: 0.2,
}


@pytest.mark.parametrize("kind", TOLERANCE, ids=lambda kind: kind.name)
def test_dequantises_close_to_the_original(kind: Kind, wide: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", wide, kind)
    checkpoint = open_checkpoint("model.gguf", tmp_path)
    for name, tensor in load_file(wide / "model.safetensors").items():
        error = (checkpoint.get(name) - tensor).norm() / tensor.norm()
        assert error <= (TOLERANCE[kind] if tensor.ndim == 2 else 0), name


@pytest.mark.parametrize("kind", [Kind.Q4_K, Kind.Q5_K, Kind.Q6_K], ids=lambda kind: kind.name)
def test_dequantises_k_types(kind: Kind, wide: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", wide, kind)
    checkpoint = open_checkpoint("model.gguf", tmp_path)
    for name in ("model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight"):
        shape = checkpoint.shapes[name]
        blocks = quantized(np.zeros(shape, np.float32), kind).reshape(shape[0], shape[1] // 256, -1)
        scalar = {Kind.Q4_K: _q4_k, Kind.Q5_K: _q5_k, Kind.Q6_K: _q6_k}[kind]
        row = torch.tensor(scalar(blocks[3, 0]))
        torch.testing.assert_close(checkpoint.get(name)[3], row)


def _k_scales(block: np.ndarray) -> list[tuple[int, int]]:
    """The eight 6-bit scales and minima of a Q4_K or Q5_K block (ggml's get_scale_min_k4)."""
    q = [int(byte) for byte in block[4:16]]
    low = [(q[i] & 63, q[i + 4] & 63) for i in range(4)]
    high = [((q[i + 4] & 15) | (q[i - 4] >> 6) << 4, (q[i + 4] >> 4) | (q[i] >> 6) << 4) for i in range(4, 8)]
    return low + high


def _q4_k(block: np.ndarray) -> list[float]:
    """One block by ggml's scalar loop (dequantize_row_q4_K); its d and dmin are the test's 0.01."""
    d, scales, out = float(np.float16(0.01)), _k_scales(block), []
    for part in range(4):
        quants = block[16 + 32 * part : 48 + 32 * part]
        for half in range(2):
            scale, minimum = scales[2 * part + half]
            out += [d * scale * ((int(q) >> 4 * half) & 15) - d * minimum for q in quants]
    return out


def _q5_k(block: np.ndarray) -> list[float]:
    d, scales, out = float(np.float16(0.01)), _k_scales(block), []
    high = block[16:48]
    for part in range(4):
        quants = block[48 + 32 * part : 80 + 32 * part]
        for half in range(2):
            scale, minimum = scales[2 * part + half]
            bits = [(int(h) >> (2 * part + half)) & 1 for h in high]
            nibbles = [(int(q) >> 4 * half) & 15 for q in quants]
            out += [d * scale * (q + 16 * b) - d * minimum for q, b in zip(nibbles, bits, strict=True)]
    return out


def _q6_k(block: np.ndarray) -> list[float]:
    d, out = float(np.float16(0.01)), np.zeros(256)
    scales = block[192:208].view(np.int8)
    for half in range(2):
        low, high = block[64 * half : 64 * half + 64], block[128 + 32 * half : 160 + 32 * half]
        for i in range(32):
            for quarter in range(4):
                nibble = (int(low[i + 32 * (quarter % 2)]) >> (4 * (quarter // 2))) & 15
                quant = (nibble | ((int(high[i]) >> (2 * quarter)) & 3) << 4) - 32
                out[128 * half + 32 * quarter + i] = d * int(scales[8 * half + 2 * quarter + i // 16]) * quant
    return out.astype(np.float32).tolist()


def test_ties_embeddings_when_there_is_no_output(llama: Path, tmp_path: Path) -> None:
    tied = make_checkpoint("llama", tmp_path / "hf", tie_word_embeddings=True)
    write_gguf(tmp_path / "tied.gguf", tied)
    write_gguf(tmp_path / "untied.gguf", llama)
    assert open_checkpoint("tied.gguf", tmp_path).model.tie_word_embeddings
    assert not open_checkpoint("untied.gguf", tmp_path).model.tie_word_embeddings


def test_head_dim_without_key_length(llama: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", llama, drop=("llama.attention.key_length",))
    assert open_checkpoint("model.gguf", tmp_path).model.head_dim == 16


def test_linear_and_yarn_scaling(llama: Path, tmp_path: Path) -> None:
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    yarn = {
        "llama.rope.scaling.type": "yarn",
        "llama.rope.scaling.factor": 4.0,
        "llama.rope.scaling.original_context_length": 128,
        "llama.rope.scaling.yarn_beta_fast": 16.0,
    }
    write_gguf(tmp_path / "linear.gguf", llama, metadata=linear)
    write_gguf(tmp_path / "yarn.gguf", llama, metadata=yarn)
    rope = open_checkpoint("linear.gguf", tmp_path).model.rope
    assert (rope.type, rope.factor) == ("linear", 4.0)
    rope = open_checkpoint("yarn.gguf", tmp_path).model.rope
    assert (rope.type, rope.factor, rope.original_max_position_embeddings, rope.beta_fast) == ("yarn", 4.0, 128, 16.0)


@pytest.mark.parametrize(("factor", "original"), [(8.0, 8192), (32.0, 8192), (4.0, 1024)])
def test_llama3_scaling_from_its_frequency_factors(factor: float, original: int, llama: Path, tmp_path: Path) -> None:
    theta = {"llama.rope.freq_base": 500000.0}
    factors = {"rope_freqs.weight": _llama3_factors(500000.0, 16, factor, original)}
    write_gguf(tmp_path / "model.gguf", llama, metadata=theta, extra=factors)
    checkpoint = open_checkpoint("model.gguf", tmp_path)
    rope = checkpoint.model.rope
    assert (rope.type, rope.theta, rope.factor) == ("llama3", 500000.0, factor)
    assert (rope.low_freq_factor, rope.high_freq_factor, rope.original_max_position_embeddings) == (1.0, 4.0, original)
    assert "rope_freqs.weight" not in checkpoint.shapes


def _llama3_factors(theta: float, head_dim: int, factor: float, original: int) -> np.ndarray:
    """From transformers' own frequencies, so that nothing of ours judges itself."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": original,
    }
    config = LlamaConfig(head_dim=head_dim, max_position_embeddings=int(original * factor), rope_parameters=scaling)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1.0 / theta ** (torch.arange(0, head_dim, 2) / head_dim)
    return (plain / scaled).to(torch.float32).numpy()


def test_frequency_factors_of_another_kind_are_refused(llama: Path, tmp_path: Path) -> None:
    odd = {"rope_freqs.weight": np.linspace(1, 7, 8, dtype=np.float32)}
    write_gguf(tmp_path / "model.gguf", llama, extra=odd)
    with pytest.raises(TrtpackError, match="rope_freqs"):
        open_checkpoint("model.gguf", tmp_path)


def test_qwen_sliding_window(tmp_path: Path) -> None:
    folder = make_checkpoint("qwen2", tmp_path / "hf")
    write_gguf(tmp_path / "model.gguf", folder, metadata={"qwen2.attention.sliding_window": 12})
    assert open_checkpoint("model.gguf", tmp_path).model.windows == (12, 12, 12)


def test_mistral_without_a_window_is_a_llama(tmp_path: Path) -> None:
    folder = make_checkpoint("mistral", tmp_path / "hf", sliding_window=None)
    write_gguf(tmp_path / "model.gguf", folder)
    checkpoint = open_checkpoint("model.gguf", tmp_path)
    assert checkpoint.model == open_checkpoint("hf", tmp_path).model
    assert checkpoint.architecture == "LlamaForCausalLM"


def test_stop_tokens_include_end_of_turn(llama: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", llama, metadata={"tokenizer.ggml.eot_token_id": 0})
    assert open_checkpoint("model.gguf", tmp_path).config["eos_token_id"] == [2, 0]


@pytest.mark.parametrize("kept", [0.9, 0.5, 0.1, 0.01])
def test_a_truncated_file_is_named(kept: float, llama: Path, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", llama)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(TrtpackError, match=r"model\.gguf is truncated: expected .* bytes, found") as caught:
        open_checkpoint("model.gguf", tmp_path)
    assert str(int(len(whole) * kept)) in caught.value.message


def test_the_whole_size_is_told_when_only_weights_are_missing(llama: Path, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", llama)
    whole = path.read_bytes()
    path.write_bytes(whole[:-64])
    with pytest.raises(TrtpackError, match=f"expected {len(whole)} bytes, found {len(whole) - 64}"):
        open_checkpoint("model.gguf", tmp_path)


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04" + bytes(100)])
def test_what_is_not_gguf_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(TrtpackError, match=r"model\.gguf"):
        open_checkpoint("model.gguf", tmp_path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"general.architecture": "gemma3"}, "'gemma3' is not supported; supported: llama, qwen2, qwen3"),
        ({"llama.rope.dimension_count": 8}, "partial_rotary_factor"),
        ({"llama.attention.head_count_kv": [2, 1, 2]}, "head_count_kv differs between layers"),
        ({"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 2.0}, "longrope"),
        ({"split.count": 3}, "one of 3 parts"),
    ],
)
def test_what_cannot_run_is_refused(metadata: dict[str, Any], message: str, llama: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", llama, metadata=metadata, drop=())
    with pytest.raises(TrtpackError, match=message):
        open_checkpoint("model.gguf", tmp_path)


def test_missing_metadata_is_named(llama: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", llama, drop=("llama.block_count",))
    with pytest.raises(TrtpackError, match=r"llama\.block_count"):
        open_checkpoint("model.gguf", tmp_path)


def test_an_unsupported_type_is_named(llama: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", llama, extra={"blk.0.odd.weight": np.zeros(4, np.int32)})
    with pytest.raises(TrtpackError, match=r"blk\.0\.odd\.weight is stored as I32"):
        open_checkpoint("model.gguf", tmp_path)


def test_an_unknown_tensor_keeps_its_name(llama: Path, tmp_path: Path) -> None:
    """So that compile can say which tensor has no place in the model."""
    write_gguf(tmp_path / "model.gguf", llama, extra={"blk.0.odd.weight": np.zeros(4, np.float32)})
    checkpoint = open_checkpoint("model.gguf", tmp_path)
    assert checkpoint.shapes["blk.0.odd.weight"] == (4,)
    with pytest.raises(KeyError):
        checkpoint.get(gguf_name("model.norm.weight"))
