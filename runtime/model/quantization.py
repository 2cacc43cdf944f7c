"""How quantised linear layers are stored, and what they stand for.

Symmetric: value = stored * scale. The stored type tells the scheme: int8; uint8, two int4 a byte, the even index in
the low nibble, as in ONNX; float8_e4m3fn. A scale is for a row [out], or for a group of a row's inputs [out, groups].
"""

from collections.abc import Mapping

import torch
from torch import Tensor

# The linear layers of runtime.model.layout that a quantised engine stores so.
LINEARS = ("qkv", "o", "gate_up", "down")
# The largest value of each activation type; int8 has one more below zero, as ONNX's QuantizeLinear does.
_LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}


def dequantized(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """An engine's stored tensors as `Decoder.load` takes them, in `dtype`.

    Where activations are quantised too, X.input_zero_point says to which type, and joins X.input_scale.
    """
    loaded: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight")
        if (scale := tensors.get(f"{module}.weight_scale")) is not None and module != name:
            loaded[name] = dequantize(tensor, scale).to(dtype)
            if f"{module}.input_scale" in tensors:
                loaded[f"{module}.input_zero_point"] = torch.zeros((), dtype=tensor.dtype, device=tensor.device)
        elif not name.endswith(".weight_scale"):
            loaded[name] = tensor.to(dtype)
    return loaded


def dequantize(weight: Tensor, scale: Tensor) -> Tensor:
    """The weight [out, in] in the scale's type; stored int8, uint8 [out, in / 2] or float8_e4m3fn."""
    values = unpack_int4(weight) if weight.dtype == torch.uint8 else weight
    grouped = values.to(scale.dtype).view(*values.shape[:-1], -1, values.shape[-1] // scale[0].numel())
    return (grouped * scale.view(len(scale), -1, 1)).view(values.shape)


def pack_int4(values: Tensor) -> Tensor:
    """Int8 [out, in] in -8 … 7, `in` even → uint8 [out, in / 2] in two's complement."""
    nibbles = values.view(torch.uint8) & 0x0F
    return nibbles[:, 0::2] | nibbles[:, 1::2] << 4


def unpack_int4(packed: Tensor) -> Tensor:
    """Uint8 [out, in / 2] → int8 [out, in]."""
    nibbles = torch.stack((packed << 4, packed & 0xF0), dim=-1).flatten(-2)
    return nibbles.view(torch.int8) >> 4


def fake_quantize(x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """What remains of activations stored as int8 or float8_e4m3fn with one scale: same shape, same type.

    As ONNX's QuantizeLinear and DequantizeLinear: round half to even, saturate.
    """
    largest, wide = _LARGEST[dtype], scale.float()
    scaled = x.float() / wide
    if dtype == torch.int8:
        stored = scaled.round_().clamp_(-largest - 1, largest)
    else:
        stored = scaled.clamp_(-largest, largest).to(dtype).float()
    return (stored * wide).to(x.dtype)
