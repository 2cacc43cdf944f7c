"""Speeds of Llama 3 on GPUs of the table, worked out by hand."""

import pytest

from k8s.gpus import find
from packager.plan.roofline import Roofline
from runtime.engine.manifest import Precision, Quantization, Scheme
from runtime.model.families import parse
from tests.packager.plan.configs import LLAMA_3_8B, LLAMA_3_70B

# Bytes that a decode step of 8B in bf16 reads besides the KV cache: all weights but the embedding table.
WEIGHTS = 16_060_522_496 - 128256 * 4096 * 2
# FLOPs of one of its tokens: 2 a weight of the linear layers, and of the head.
LAYERS = 2 * 32 * 218_103_808
HEAD = 2 * 128256 * 4096
TOKEN = 131_072  # bytes of a token in the KV cache
ATTEND = 4 * 32 * 128 * 32  # FLOPs of a query and one key, value: 4 · heads · head_dim · layers


def roofline(gpu: str, scheme: Scheme | None = None, **fields: object) -> Roofline:
    quantization = Quantization(scheme=scheme) if scheme else None
    return Roofline(find(gpu), parse({**LLAMA_3_8B, **fields}), Precision(dtype="bfloat16", quantization=quantization))


def test_decoding_one_sequence_on_an_l4_is_bound_by_bandwidth() -> None:
    # (15.01 GB + 2048 · 131,072 bytes) / 300 GB/s = 50.9 ms; its 16.1 GFLOP would take 0.13 ms at 121 TFLOPS
    seconds = (WEIGHTS + 2048 * TOKEN) / 300e9
    assert seconds == pytest.approx(0.050928, rel=1e-4)
    assert roofline("L4").decode(1, 2048) == pytest.approx(1 / seconds)


def test_decoding_a_batch_reads_the_weights_once() -> None:
    # (15.01 GB + 26 · 268 MB) / 300 GB/s = 73.3 ms for 26 tokens
    assert roofline("L4").decode(26, 2048) == pytest.approx(26 / ((WEIGHTS + 26 * 2048 * TOKEN) / 300e9))
    assert roofline("L4").decode(26, 2048) == pytest.approx(354.72, abs=0.01)


def test_short_sequences_in_a_great_batch_are_bound_by_compute() -> None:
    # at 16 tokens a sequence's arithmetic takes (13.96 + 1.05 + 0.008) GFLOP / 989 TFLOPS = 15.2 us, in which
    # 3350 GB/s moves 50.9 MB; its own KV is 2.1 MB of them: 15.01 GB / 48.8 MB = 307.8 sequences
    compute = (LAYERS + HEAD + 16 * ATTEND) / 989e12
    assert WEIGHTS / (compute * 3350e9 - 16 * TOKEN) == pytest.approx(307.8, abs=0.05)
    h100 = roofline("H100")
    assert h100.balance(16) == 308
    assert h100.decode(308, 16) == pytest.approx(1 / compute)
    assert h100.decode(1000, 16) == pytest.approx(h100.decode(308, 16))
    assert h100.decode(307, 16) < h100.decode(308, 16)


def test_long_sequences_never_are() -> None:
    # at 2048 tokens 16.1 GFLOP / 989 TFLOPS = 16.3 us, in which 3350 GB/s moves 54.5 MB; its KV is 268 MB
    assert roofline("H100").balance(2048) is None


def test_prefill_is_bound_by_compute() -> None:
    # each of 2048 tokens attends to 1024.5 on average; the head runs once
    flops = 2048 * (LAYERS + 1024.5 * ATTEND) + HEAD
    assert roofline("L4").prefill(2048) == pytest.approx(2048 / (flops / 121e12))
    assert roofline("L4").prefill(2048) == pytest.approx(8347, abs=1)


def test_fp8_computes_its_layers_at_the_fp8_rate() -> None:
    # int8-sized weights (9,083,953,408 bytes, test_memory) less the embedding; 8-bit layers at 1979 TFLOPS
    fp8 = roofline("H100", "fp8")
    others = HEAD + 2048 * 1024.5 * ATTEND
    assert fp8.prefill(2048) == pytest.approx(2048 / (2048 * LAYERS / 1979e12 + others / 989e12))
    moved = 9_083_953_408 - 128256 * 4096 * 2 + 2048 * TOKEN
    assert fp8.decode(1, 2048) == pytest.approx(1 / (moved / 3350e9))


def test_weight_only_schemes_compute_at_the_dtype_s_rate() -> None:
    assert roofline("L4", "int8").prefill(2048) == roofline("L4").prefill(2048)
    assert roofline("L4", "int8").decode(1, 2048) > roofline("L4").decode(1, 2048) * 1.5


@pytest.mark.parametrize(("gpu", "scheme", "dtype"), [("T4", None, "float16"), ("L4", "smoothquant", "bfloat16")])
def test_without_a_rate_the_bandwidth_still_bounds(gpu: str, scheme: Scheme | None, dtype: str) -> None:
    precision = Precision.model_validate({"dtype": dtype, "quantization": {"scheme": scheme} if scheme else None})
    found = Roofline(find(gpu), parse(LLAMA_3_8B), precision)
    assert not found.has_rate
    assert found.prefill(2048) is None
    assert found.balance(16) is None
    assert found.decode(1, 2048) > 0


def test_a_tied_head_reads_the_embedding_table() -> None:
    # 15,009,849,344 bytes in all, every one of them read
    tied = roofline("L4", tie_word_embeddings=True)
    assert tied.decode(1, 2048) == roofline("L4").decode(1, 2048)


def test_a_window_bounds_what_is_read() -> None:
    windowed = roofline("L4", architectures=["MistralForCausalLM"], sliding_window=512)
    assert windowed.decode(26, 2048) == pytest.approx(roofline("L4").decode(26, 512))
    prefill = windowed.prefill(2048)
    # 512 · 513 / 2 pairs up to the window, 1536 · 512 beyond it
    flops = 2048 * LAYERS + HEAD + (512 * 513 / 2 + 1536 * 512) * ATTEND
    assert prefill == pytest.approx(2048 / (flops / 121e12))


def test_70b_on_a_b200() -> None:
    # (141.11 GB - 2.10 GB of embedding + 2048 · 327,680 bytes) / 8 TB/s = 17.5 ms
    found = Roofline(find("B200"), parse(LLAMA_3_70B), Precision(dtype="bfloat16"))
    seconds = (141_107_412_992 - 128256 * 8192 * 2 + 2048 * 327_680) / 8e12
    assert seconds == pytest.approx(0.017460, rel=1e-3)
    assert found.decode(1, 2048) == pytest.approx(1 / seconds)
