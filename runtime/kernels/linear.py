"""Linear layers as CPUs compute them fastest: weights in oneDNN's order, and int8 and int4 weights as they are stored.

Of inputs x [rows, in] each gives [rows, out] in the type of x.
"""

from functools import cache

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from runtime.model.quantization import unpack_int4

# Up to so many rows a product reads its weights as they are stored; for more they are put back into the type of x
# first, which costs the same however many rows there are. Measured on an Intel Xeon with AVX512 and without
# AVX512_BF16, one thread, [3072, 576] and [2048, 2048] in float32.
INT8_ROWS = 24
INT4_ROWS = 96
# oneDNN orders a weight for a number of rows. 8 is as good as the exact number for 4 to 512 rows.
_EXPECTED_ROWS = 8
# MKL too. 512 is as good as the exact number for 1 to 512 rows, 8 is not.
_MKL_ROWS = 512
# Weights put back into the type of x at once: what follows finds them in the level 2 cache, and memory is bounded.
_SLICE = 2**19
# The group sizes that PyTorch's int4 kernel takes.
_GROUPS = (256, 128, 64, 32)


class Packed(nn.Module):
    """A weight [out, in] of float32, bfloat16 or float16 in oneDNN's order, and a bias [out].

    SmolLM2's layers in float32 on an Intel Xeon with AVX512, one thread, ms for 12 of them, F.linear and this: 13 and
    18 for 1 row, 26 and 22 for 4, 36 and 26 for 8, 37 and 39 for 32; its head 8 and 8, 19 and 10, 30 and 12, 28 and 20.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _EXPECTED_ROWS)
        self._bias = bias

    @staticmethod
    def fits(dtype: torch.dtype) -> bool:
        """Whether this CPU's oneDNN computes in that type."""
        known = torch.ops.mkldnn
        supported = {torch.bfloat16: known._is_mkldnn_bf16_supported, torch.float16: known._is_mkldnn_fp16_supported}
        if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return False
        return bool(supported[dtype]()) if dtype in supported else dtype == torch.float32

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return y


class MklPacked(nn.Module):
    """A weight float32 [out, in] in MKL's order, and a bias [out].

    Measured on an Intel Xeon with AVX512, 2 threads, the linear layers of SmolLM2: of 1, 8, 32 and 512 rows 19, 24, 38
    and 375 ms; in oneDNN's order 28, 34, 53 and 415 ms; as they are 18, 38, 53 and 444 ms.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._weight = torch.ops.mkl._mkl_reorder_linear_weight(weight.contiguous(), _MKL_ROWS)
        # Of the weight itself the operator reads the shape alone, as long as it is told the number of rows it gets.
        self._shape = torch.empty(1).expand(weight.shape)
        self._bias = bias

    @staticmethod
    def fits(dtype: torch.dtype) -> bool:
        """Whether MKL is there, which computes in float32 alone."""
        return dtype == torch.float32 and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        if not len(x):
            return x.new_empty(0, len(self._shape))
        y: Tensor = torch.ops.mkl._mkl_linear(x, self._weight, self._shape, self._bias, len(x))
        return y


def packed(weight: Tensor, bias: Tensor | None) -> "Packed | MklPacked | None":
    """The layer in the order that is fastest here, if any is."""
    order = next((each for each in (MklPacked, Packed) if each.fits(weight.dtype)), None)
    return order(weight, bias) if order else None


class Int8(nn.Module):
    """A weight int8 [out, in] with a scale [out], and a bias [out].

    Few rows are multiplied in bfloat16 and summed in float32: PyTorch's kernel has vector code for that type alone.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        # A copy, for tensors of a mapped file lie askew: see `_aligned`.
        self._weight, self._scale, self._bias = weight.clone(), scale, bias
        # The kernel takes scales in bfloat16 only, so that its own are one, and these are multiplied after it.
        self._ones = torch.ones(len(weight), dtype=torch.bfloat16)

    @staticmethod
    def fits(weight: Tensor, scale: Tensor) -> bool:
        """Whether there is a scale for each row, whole vectors in it, and vector code for this CPU.

        Of rows that are no multiple of 16 PyTorch 2.13's kernel reads beyond the end.
        """
        whole = scale.numel() == len(scale) and weight.shape[1] % 16 == 0
        return whole and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")

    @classmethod
    def rounded(cls, weight: Tensor) -> "Int8":
        """Rounds a weight [out, in] to the nearest of each row's 255 levels; the scale has its type."""
        scale = weight.abs().amax(dim=1).float().clamp(min=torch.finfo(torch.float32).tiny) / 127
        stored = torch.empty(weight.shape, dtype=torch.int8)
        for rows, scales, into in zip(*(torch.split(each, 4096) for each in (weight, scale, stored)), strict=True):
            into.copy_((rows / scales.unsqueeze(1)).round_().clamp_(-127, 127))
        return cls(stored, scale.to(weight.dtype), None)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > INT8_ROWS:
            slices = torch.split(self._weight, _slice(self._weight.shape[1]))
            y = torch.cat([F.linear(x, rows.to(x.dtype)) for rows in slices], dim=1) * self._scale
        else:
            product = torch.ops.aten._weight_int8pack_mm(_aligned(x), self._weight, self._ones)
            y = (product * self._scale).to(x.dtype)
        return y if self._bias is None else y + self._bias


class Int4(nn.Module):
    """A weight uint8 [out, in / 2] as runtime.model.quantization stores it, with a scale [out, groups], and a bias.

    Few rows are multiplied as by Int8. See `fits`.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        values, self._bias = unpack_int4(weight), bias
        out, size = values.shape
        self._group = _group(size // scale[0].numel())
        scale = scale.view(out, -1).repeat_interleave(size // scale[0].numel() // self._group, dim=1)
        self._weight = _pack(values)
        # Of each group and row a scale and a zero point, as the kernel wants them: [groups, out, 2].
        self._scales = torch.stack((scale, torch.zeros_like(scale)), -1).transpose(0, 1).contiguous().bfloat16()

    @staticmethod
    def fits(weight: Tensor, scale: Tensor) -> bool:
        """Whether this CPU has a fast kernel, which it also can be undone for, and the kernel takes these sizes."""
        size = 2 * weight.shape[1] // scale[0].numel()
        width = _width()
        return width is not None and len(weight) % width == 0 and any(size % group == 0 for group in _GROUPS)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > INT4_ROWS:
            count = _slice(2 * self._weight.shape[1])
            slices = zip(torch.split(self._weight, count), torch.split(self._scales, count, dim=1), strict=True)
            y = torch.cat([x @ _dequantized(rows, scales, x.dtype) for rows, scales in slices], dim=1)
        else:
            args = self._weight, self._group, self._scales
            y = torch.ops.aten._weight_int4pack_mm_for_cpu(_aligned(x), *args).to(x.dtype)
        return y if self._bias is None else y + self._bias


def _slice(size: int) -> int:
    """How many rows of `size` weights are put back at once: a multiple of 64."""
    return max(64, _SLICE // size // 64 * 64)


def _dequantized(packed: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The transpose [in, out] of what `Int4` holds."""
    scale = scales[:, :, 0].unsqueeze(1).contiguous().to(dtype)
    values = _unpack(packed, _width() or 1).to(dtype).view(len(scale), -1, len(packed))
    return torch.addcmul(scale * -8, values, scale, out=values).flatten(0, 1)


def _aligned(x: Tensor) -> Tensor:
    """In bfloat16, where PyTorch's own memory begins: its int8 kernel of 2.13 dies of rows that lie elsewhere."""
    x = x.bfloat16().contiguous()
    return x.clone() if x.data_ptr() % 64 else x


def _group(size: int) -> int:
    """The largest that the kernel takes of those that divide a group of `size`."""
    return next(group for group in _GROUPS if size % group == 0)


def _pack(values: Tensor) -> Tensor:
    """Int8 [out, in] in -8 … 7 → uint8 [out, in / 2] in the kernel's order."""
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values.int() + 8, 1)
    return packed


def _unpack(packed: Tensor, width: int) -> Tensor:
    """What `_pack` made, plus 8 and transposed: uint8 [in, out].

    The kernel takes `width` rows at a time, of which each input's first half are low nibbles, the second half high.
    """
    size = 2 * packed.shape[1]
    bytes_ = packed.view(-1, size, width // 2).transpose(0, 1)
    return torch.stack((bytes_ & 15, bytes_ >> 4), dim=2).view(size, -1)


@cache
def _width() -> int | None:
    """The rows that this CPU's int4 kernel takes at a time: 64 with AVX512, 32 with AVX2. None: it has no fast one."""
    values = torch.randint(-8, 8, (64, 64), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
    packed = _pack(values)
    return next((width for width in (64, 32) if torch.equal(_unpack(packed, width).T, (values + 8).byte())), None)
