"""The torch engine: runs the segments as PyTorch modules, on a CPU or a CUDA GPU."""

import logging
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from runtime.batch import Batch
from runtime.engine import manifest
from runtime.engine.memory import available_bytes
from runtime.errors import EngineError
from runtime.kernels.attention import KVCache, PagedAttention
from runtime.model import rope
from runtime.model.decoder import Decoder

log = logging.getLogger(__name__)

BLOCK_SIZE = 16

# The share of free memory that the KV cache may take; the rest is for activations and everybody else.
_KV_SHARE = {"cpu": 0.5, "cuda": 0.9}


class TorchEngine:
    """An engine folder in memory: weights, RoPE tables and a KV cache of `num_blocks` blocks."""

    def __init__(self, folder: Path, *, device: str | None = None, kv_cache_bytes: int | None = None) -> None:
        """Checks every file against engine.json before any weight is read. Raises EngineError."""
        self.manifest = manifest.read(folder)
        manifest.verify(folder, self.manifest)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = _compute_dtype(getattr(torch, self.manifest.precision.dtype), self.device)
        config, limits = self.manifest.model.config, self.manifest.limits
        try:
            self._segments = Decoder.load(config, self._weights(folder)).segments()
        except (RuntimeError, KeyError) as error:
            raise EngineError(f"the weights in {folder} do not fit its engine.json: {error}") from error
        cos, sin = rope.tables(config.rope, config.head_dim, limits.max_model_len)
        self._cos, self._sin = (table.to(self.device, self.dtype) for table in (cos, sin))
        self.num_blocks = self._plan_blocks(kv_cache_bytes)
        self._kv = KVCache(config, self.num_blocks, BLOCK_SIZE, self.dtype, self.device)

    @torch.inference_mode()
    def forward(self, batch: Batch) -> Tensor:
        """Computes a step's tokens into the KV cache; returns float32 logits [N, vocabulary] of `last_rows`."""
        cos, sin = self._cos[batch.positions], self._sin[batch.positions]
        attend = PagedAttention(self.manifest.model.config, self._kv, batch)
        hidden = self._segments.hidden(batch.tokens, cos, sin, attend)
        return self._segments.head(hidden[batch.last_rows]).float()

    def _weights(self, folder: Path) -> dict[str, Tensor]:
        weights: dict[str, Tensor] = {}
        for name in self.manifest.files:
            if name.endswith(".safetensors"):
                loaded = load_file(folder / name, device=str(self.device))
                weights |= {key: tensor.to(self.dtype) for key, tensor in loaded.items()}
        return weights

    def _plan_blocks(self, kv_cache_bytes: int | None) -> int:
        config, limits = self.manifest.model.config, self.manifest.limits
        block_bytes = KVCache.block_bytes(config, BLOCK_SIZE, self.dtype)
        longest = -(-limits.max_model_len // BLOCK_SIZE)
        budget = kv_cache_bytes or int(available_bytes(self.device) * _KV_SHARE[self.device.type])
        blocks = min(budget // block_bytes, longest * limits.max_batch_size)
        if blocks < longest:
            raise EngineError(
                f"the KV cache may take {budget / 2**30:.2f} GiB, which holds {blocks * BLOCK_SIZE} tokens; "
                f"max_model_len {limits.max_model_len} needs {longest * block_bytes / 2**30:.2f} GiB: "
                "give more memory, or lower engine.max_model_len in config.yaml and compile again"
            )
        return blocks


def _compute_dtype(stored: torch.dtype, device: torch.device) -> torch.dtype:
    """The engine's own type, unless it is a half that this CPU would only emulate: then float32.

    Measured on an Intel Xeon with AVX512 but without AVX512_BF16: [512, 576] x [576, 3072] runs at 55 GFLOPS
    in bfloat16 and at 263 in float32.
    """
    suffix = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(stored)
    if device.type != "cpu" or suffix is None:
        return stored
    if any(has and name.endswith(suffix) for name, has in torch.cpu.get_capabilities().items()):
        return stored
    log.info("This CPU has no %s instructions: computing in float32, with twice the memory", suffix)
    return torch.float32
