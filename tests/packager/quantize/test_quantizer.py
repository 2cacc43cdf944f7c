"""One pass over a tiny model: every tensor in its place, and a quality that the whole model confirms."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from packager.errors import TrtpackError
from packager.quantize import METHODS, Quantizer
from runtime.engine.manifest import DType, Quality, Quantization, Scheme
from runtime.model import layout
from runtime.model.config import ModelConfig
from runtime.model.quantization import LINEARS, dequantized
from tests.packager.quantize.models import engine_tensors, logits, token_sequences
from tests.tiny import FAMILIES

SCHEMES: tuple[Scheme, ...] = ("int8", "int4", "fp8", "smoothquant")
CALIBRATION, EVALUATION = token_sequences(1, 40, 40, 9), token_sequences(2, 30, 17)
STORED = {"int8": torch.int8, "int4": torch.uint8, "fp8": torch.float8_e4m3fn, "smoothquant": torch.int8}
Checkpoints = Callable[[str], Path]


def chosen(scheme: Scheme, method: str | None = None) -> Quantization:
    group_size = 128 if scheme == "int4" else None
    return Quantization.model_validate(
        {"scheme": scheme, "group_size": group_size, "method": method or METHODS[scheme]}
    )


def quantized(
    config: ModelConfig, tensors: dict[str, Tensor], quantization: Quantization
) -> tuple[dict[str, Tensor], Quality]:
    dtype = tensors["embed.weight"].dtype
    quantizer = Quantizer(config, quantization, tensors.__getitem__, CALIBRATION, EVALUATION, dtype, "random tokens")
    return dict(quantizer.tensors()), quantizer.quality


def measured(config: ModelConfig, exact: dict[str, Tensor], actual: dict[str, Tensor]) -> tuple[float, float, float]:
    """KL and both perplexities by the whole model, one sequence at a time."""
    kl, losses, tokens = 0.0, [0.0, 0.0], 0
    for sequence in EVALUATION:
        after = torch.tensor(sequence[1:])
        both = [logits(config, dequantized(t, torch.float32), sequence)[:-1].log_softmax(-1) for t in (exact, actual)]
        kl += (both[0].exp() * (both[0] - both[1])).sum().item()
        losses = [loss + F.nll_loss(of, after, reduction="sum").item() for loss, of in zip(losses, both, strict=True)]
        tokens += len(after)
    reference, perplexity = (torch.tensor(loss / tokens).exp().item() for loss in losses)
    return kl / tokens, perplexity, reference


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_quality_is_the_whole_models(family: str, scheme: Scheme, tiny_checkpoint: Checkpoints) -> None:
    config, tensors = engine_tensors(tiny_checkpoint(family), "bfloat16")
    stored, quality = quantized(config, tensors, chosen(scheme))
    kl, perplexity, reference = measured(config, tensors, stored)
    assert quality.tokens == sum(len(sequence) - 1 for sequence in EVALUATION)
    assert quality.text == "random tokens"
    assert quality.kl == pytest.approx(kl, rel=1e-3)
    assert quality.perplexity == pytest.approx(perplexity, rel=1e-4)
    assert quality.reference_perplexity == pytest.approx(reference, rel=1e-4)
    assert quality.kl > 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_tensors_come_in_the_layouts_order(scheme: Scheme, dtype: DType, tiny_checkpoint: Checkpoints) -> None:
    config, tensors = engine_tensors(tiny_checkpoint("qwen2"), dtype)
    stored, _ = quantized(config, tensors, chosen(scheme))
    expected: list[str] = []
    for name, _ in layout.weights(config):
        expected.append(name)
        if name.endswith(".weight") and name.split(".")[-2] in LINEARS:
            expected.append(f"{name}_scale")
            if scheme in ("fp8", "smoothquant"):
                expected.append(name.replace(".weight", ".input_scale"))
    assert list(stored) == expected
    for name, tensor in stored.items():
        is_linear = f"{name}_scale" in stored
        assert tensor.dtype == (STORED[scheme] if is_linear else tensors["embed.weight"].dtype), name
        if name in tensors and scheme != "int4":
            assert tensor.shape == tensors[name].shape
    if scheme == "int4":  # groups of 128 divide neither 64 nor 96
        assert list(stored["layers.0.qkv.weight_scale"].shape) == [128, 1]
        assert list(stored["layers.0.down.weight_scale"].shape) == [64, 3]
    if scheme in ("fp8", "smoothquant"):
        assert stored["layers.0.o.input_scale"].shape == ()


def test_finer_is_better(tiny_checkpoint: Checkpoints) -> None:
    config, tensors = engine_tensors(tiny_checkpoint("llama"))
    kl = {scheme: quantized(config, tensors, chosen(scheme, "rtn"))[1].kl for scheme in ("int8", "fp8", "int4")}
    assert 0 < kl["int8"] < kl["fp8"] < kl["int4"]


def test_round_to_nearest_leaves_all_else_as_it_was(tiny_checkpoint: Checkpoints) -> None:
    config, tensors = engine_tensors(tiny_checkpoint("qwen3"), "bfloat16")
    stored, _ = quantized(config, tensors, chosen("int8", "rtn"))
    same = [name for name in tensors if f"{name}_scale" not in stored]
    assert len(same) == len(tensors) - len(LINEARS) * config.num_layers
    assert all(torch.equal(stored[name], tensors[name]) for name in same)


def test_the_same_text_gives_the_same_bytes(tiny_checkpoint: Checkpoints) -> None:
    config, tensors = engine_tensors(tiny_checkpoint("llama"), "bfloat16")
    first, second = (quantized(config, tensors, chosen("int4"))[0] for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_one_layer_is_read_at_a_time_and_progress_adds_up(tiny_checkpoint: Checkpoints) -> None:
    config, tensors = engine_tensors(tiny_checkpoint("llama"))
    reads: list[str] = []
    told: list[float] = []

    def load(name: str) -> Tensor:
        reads.append(name)
        return tensors[name]

    quantizer = Quantizer(config, chosen("int4"), load, CALIBRATION, EVALUATION, torch.float32)
    for name, _ in quantizer.tensors(lambda amount, following="", /: told.append(amount)):
        ahead = {read.split(".")[1] for read in reads if read.startswith("layers.")}
        if name.startswith("layers."):
            assert name.split(".")[1] == max(ahead)
    assert sum(told) == sum(tensor.nbytes for tensor in tensors.values())


def test_a_width_that_no_group_divides_is_named(tiny_checkpoint: Checkpoints) -> None:
    config, tensors = engine_tensors(tiny_checkpoint("llama"))
    odd = config.model_copy(update={"intermediate_size": 100})
    with pytest.raises(TrtpackError, match=r"layers\.0\.down\.weight has 100 input features"):
        Quantizer(odd, chosen("int4"), tensors.__getitem__, CALIBRATION, EVALUATION, torch.float32)
