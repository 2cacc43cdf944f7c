"""Checkpoints whose linear layers arrive quantised: read as the real weights that they stand for.

One file a format, named as `quantization_config.quant_method` in config.json names it. Which layers are quantised is
read off the tensors' names, so lists of layers left out (`ignore`, `modules_to_not_convert`) need no reading.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from packager.checkpoint.quantized.awq import Awq
from packager.checkpoint.quantized.compressed_tensors import CompressedTensors
from packager.checkpoint.quantized.format import Format
from packager.checkpoint.quantized.fp8 import Fp8
from packager.checkpoint.quantized.gptq import Gptq
from packager.checkpoint.quantized.layer import UNQUANTISED
from packager.checkpoint.quantized.reader import Reader
from packager.errors import TrtpackError

__all__ = ["Reader", "recognise"]

_FORMATS: dict[str, type[Format]] = {
    "awq": Awq,
    "compressed-tensors": CompressedTensors,
    "fp8": Fp8,
    "gptq": Gptq,
}


def recognise(source: str, config: Mapping[str, Any]) -> Format | None:
    """How a config.json says its checkpoint is quantised; None where it does not.

    Raises TrtpackError naming a method, or a setting of one, that is not read.
    """
    said = config.get("quantization_config")
    if not said:
        return None
    method = said.get("quant_method") if isinstance(said, dict) else None
    if method not in _FORMATS:
        named = method or "its quantization_config names no quant_method"
        raise TrtpackError(
            f"{source} is quantised ({named}), which is not read; read: {', '.join(_FORMATS)}", UNQUANTISED
        )
    try:
        return _FORMATS[method].model_validate(said)
    except ValidationError as error:
        raise TrtpackError(f"{source} is quantised with {method}: {_told(error)}", UNQUANTISED) from error


def _told(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "value_error":
        return f"{where}{': ' if where else ''}{first['ctx']['error']}"
    return f"{where}: {first['msg']}, found {first['input']!r}"
