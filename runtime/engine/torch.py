"""The torch backend: the segments as PyTorch modules, on a CPU or a CUDA GPU."""

from pathlib import Path

import torch

from runtime.engine import weights
from runtime.engine.manifest import Manifest
from runtime.errors import EngineError
from runtime.model.decoder import Decoder, Segments
from runtime.model.quantization import dequantized


def segments(folder: Path, manifest: Manifest, device: torch.device, dtype: torch.dtype) -> Segments:
    """Reads every weight and computes in `dtype`; quantised ones are dequantised here. Raises EngineError."""
    tensors = dequantized(weights.read(folder, manifest, device), dtype)
    try:
        return Decoder.load(manifest.model.config, tensors).segments()
    except EngineError:
        raise
    except (RuntimeError, KeyError) as error:
        raise EngineError(f"the weights in {folder} do not fit its engine.json: {error}") from error
