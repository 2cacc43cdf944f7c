"""A decoder for CPUs: its linear layers packed one after the other, so that none is in memory twice."""

import torch
from torch import Tensor, nn

from runtime.kernels.linear import Int4, Int8, packed
from runtime.model.config import ModelConfig
from runtime.model.decoder import Decoder
from runtime.model.linear import Linear
from runtime.model.quantization import dequantize, dequantized

# What a linear layer's tensors are called.
_PARTS = ("weight", "bias", "weight_scale", "input_scale")


def load(config: ModelConfig, stored: dict[str, Tensor], dtype: torch.dtype) -> Decoder:
    """Takes an engine's tensors out of `stored`, and computes in `dtype`.

    Weights stored as int8 and int4 are computed with as they are, and the head then as int8: of a small model it is
    the largest matrix. Where inputs are quantised too, weights are dequantised. Raises as Decoder.load does.
    """
    with torch.device("meta"):
        decoder = Decoder(config)
    low_bit = False
    for name, module in list(decoder.named_modules()):
        if isinstance(module, Linear):
            own = {part: stored[key] for part in _PARTS if (key := f"{name}.{part}") in stored}
            if faster := _packed(name, module, own, dtype):
                low_bit |= isinstance(faster, Int8 | Int4)
                decoder.set_submodule(name, faster)
                for part in own:
                    del stored[f"{name}.{part}"]
    head = (stored["embed.weight"] if decoder.tied else stored.pop("head.weight")).to(dtype)
    _check("head", decoder.head, head.shape)
    low_bit = low_bit and Int8.fits(head, head[:, 0])
    if faster := Int8.rounded(head) if low_bit else packed(head, None):
        decoder.set_submodule("head", faster)
    else:
        stored["head.weight"] = head
    decoder.load_state_dict(dequantized(stored, dtype), assign=True)
    return decoder.requires_grad_(False).eval()


def _packed(name: str, module: Linear, own: dict[str, Tensor], dtype: torch.dtype) -> nn.Module | None:
    """The layer that computes with its `own` tensors what `module` would; None if that is best as it is.

    None too if there are other tensors than it takes: to refuse them by name is left to load_state_dict.
    """
    if "weight" not in own or ("bias" in own) != (module.bias is not None) or "input_scale" in own:
        return None
    weight, scale = own["weight"], own.get("weight_scale")
    bias = own["bias"].to(dtype) if "bias" in own else None
    _check(name, module, (weight.shape[0], weight.shape[1] * (2 if weight.dtype == torch.uint8 else 1)))
    if scale is not None:
        if weight.dtype == torch.uint8 and Int4.fits(weight, scale):
            return Int4(weight, scale, bias)
        if weight.dtype == torch.int8 and Int8.fits(weight, scale):
            return Int8(weight, scale.flatten().to(dtype), bias)
        weight = dequantize(weight, scale)
    return packed(weight.to(dtype), bias)


def _check(name: str, module: nn.Linear, shape: tuple[int, ...]) -> None:
    if shape != module.weight.shape:
        raise RuntimeError(f"size mismatch for {name}.weight: {list(shape)}, should be {list(module.weight.shape)}")
