"""The torch engine: runs the segments as PyTorch modules, on a CPU or a CUDA GPU."""

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
        self.dtype: torch.dtype = getattr(torch, self.manifest.precision.dtype)
        config, limits = self.manifest.model.config, self.manifest.limits
        self._segments = Decoder.load(config, self._weights(folder)).segments()
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
                weights |= load_file(folder / name, device=str(self.device))
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
