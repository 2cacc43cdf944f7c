"""The torch backend: the segments as PyTorch modules, on a CPU or a CUDA GPU."""

from pathlib import Path

import torch

from runtime.engine import packing, weights
from runtime.engine.manifest import Manifest
from runtime.errors import EngineError
from runtime.model.decoder import Decoder, Segments
from runtime.model.quantization import dequantized
from runtime.phases import phase


@phase("weights")
def segments(
    folder: Path, manifest: Manifest, device: torch.device, dtype: torch.dtype, *, packed: bool = True
) -> Segments:
    """Reads every weight and computes in `dtype`. Raises EngineError.

    On a CPU weights are packed, see runtime.engine.packing; on a GPU, or if not `packed`, dequantised here.
    """
    config, stored = manifest.model.config, weights.read(folder, manifest, device)
    try:
        if packed and device.type == "cpu":
            return packing.load(config, stored, dtype).segments()
        return Decoder.load(config, dequantized(stored, dtype)).segments()
    except EngineError:
        raise
    except (RuntimeError, KeyError) as error:
        raise EngineError(f"the weights in {folder} do not fit its engine.json: {error}") from error
