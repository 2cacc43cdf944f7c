"""What a scheme leaves open, as trtpack chooses it."""

from collections.abc import Mapping

from packager.quantize import groups
from runtime.engine.manifest import Method, Quantization, Scheme

# Measured on SmolLM2: benchmarks/quantization.
METHODS: Mapping[Scheme, Method] = {"int8": "rtn", "int4": "awq", "fp8": "gptq", "smoothquant": "smoothquant"}


def quantization(scheme: Scheme, group_size: int | None) -> Quantization:
    """`group_size` is int4's alone; None takes the default."""
    size = (group_size or groups.DEFAULT) if scheme == "int4" else None
    return Quantization(scheme=scheme, group_size=size, method=METHODS[scheme])
