"""Each packed layer computes what its dequantised weight does, on either side of its threshold."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from runtime.kernels.linear import INT4_ROWS, INT8_ROWS, Int4, Int8, MklPacked, Packed, packed
from runtime.model.quantization import dequantize, pack_int4

IN, OUT = 192, 320
# A product of values rounded to bfloat16, whose last bit is 2^-8 of them, and rounded again.
HALF = 2**-7


def given(rows: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(rows, IN, generator=torch.Generator().manual_seed(rows)).to(dtype)


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.bfloat16, HALF), (torch.float16, HALF)])
def test_oneDNNs_order(dtype: torch.dtype, most: float, rows: int, bias: bool) -> None:  # noqa: N802
    if not Packed.fits(dtype):
        pytest.skip(f"this CPU's oneDNN does not compute in {dtype}")
    torch.manual_seed(0)
    weight, offset = torch.randn(OUT, IN).to(dtype), torch.randn(OUT).to(dtype) if bias else None
    x = given(rows, dtype)
    got = Packed(weight, offset)(x)
    assert got.dtype == dtype
    expected = F.linear(x.float(), weight.float(), None if offset is None else offset.float())
    assert error(got, expected) < most


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 3, 64, 600])
def test_mkls_order(rows: int, bias: bool) -> None:
    if not MklPacked.fits(torch.float32):
        pytest.skip("this PyTorch is built without MKL")
    torch.manual_seed(0)
    weight, offset = torch.randn(OUT, IN), torch.randn(OUT) if bias else None
    got = MklPacked(weight, offset)(given(rows))
    assert got.shape == (rows, OUT)
    assert not rows or error(got, F.linear(given(rows), weight, offset)) < 1e-6


def test_mkl_takes_float32_alone() -> None:
    assert isinstance(packed(torch.zeros(OUT, IN).bfloat16(), None), Packed | None)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 64, max(INT4_ROWS, INT8_ROWS) + 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("group", [None, 32, 64, 96, 192])
def test_stored_in_few_bits(group: int | None, dtype: torch.dtype, rows: int, bias: bool) -> None:
    """Int8 with a scale a row; int4 in groups, some larger or other than the kernel has."""
    torch.manual_seed(0)
    offset = torch.randn(OUT).to(dtype) if bias else None
    layer: Int4 | Int8
    if group is None:
        stored, scale = torch.randint(-127, 128, (OUT, IN), dtype=torch.int8), torch.rand(OUT).to(dtype) + 0.1
        layer = Int8(stored, scale, offset)
    else:
        stored = pack_int4(torch.randint(-8, 8, (OUT, IN), dtype=torch.int8))
        scale = torch.rand(OUT, IN // group).to(dtype) + 0.1
        if not Int4.fits(stored, scale):
            pytest.skip("this CPU has no fast int4 kernel")
        layer = Int4(stored, scale, offset)
    x = given(rows, dtype)
    got = layer(x)
    assert got.dtype == dtype
    expected = F.linear(x.float(), dequantize(stored, scale.float()), None if offset is None else offset.float())
    assert error(got, expected) < HALF


@pytest.mark.parametrize(("out", "size"), [(48, 64), (64, 16)])
def test_sizes_that_the_int4_kernel_does_not_take(out: int, size: int) -> None:
    values = torch.zeros(out, size, dtype=torch.int8)
    assert not Int4.fits(pack_int4(values), torch.ones(out, 1))


@pytest.mark.parametrize("rows", [1, 8])
def test_memory_that_lies_askew(rows: int) -> None:
    """As the tensors of a mapped file do: PyTorch's kernel would end the process."""
    stored = torch.ones(OUT * IN + 1, dtype=torch.int8)[1:].view(OUT, IN)
    x = torch.ones(rows * IN + 1, dtype=torch.bfloat16)[1:].view(rows, IN)
    got = Int8(stored, torch.ones(OUT), None)(x)
    assert torch.equal(got, torch.full((rows, OUT), IN, dtype=torch.bfloat16))


def test_sizes_that_the_int8_kernel_does_not_take() -> None:
    assert not Int8.fits(torch.zeros(64, 200, dtype=torch.int8), torch.ones(64))
    assert not Int8.fits(torch.zeros(64, 64, dtype=torch.int8), torch.ones(64, 2))


def test_rounding_to_int8_errs_by_half_a_level_at_most() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5000, IN)  # more rows than are rounded at once
    weight[7] = 0
    layer = Int8.rounded(weight)
    got = layer(torch.eye(IN)[:64]).T  # many rows are computed in float32
    levels = weight.abs().amax(1, keepdim=True) / 127
    assert ((got - weight[:, :64]).abs() <= levels / 2 + 1e-6).all()
