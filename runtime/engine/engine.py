"""An engine folder in memory: its segments, and between them attention over a paged KV cache."""

import logging
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from runtime.batch import Batch
from runtime.engine import contract, cores, manifest, tensorrt
from runtime.engine import torch as torch_backend
from runtime.engine.bindings import TensorRT
from runtime.engine.device import DEVICE_VARIABLE, probe
from runtime.engine.manifest import BackendName, Manifest
from runtime.engine.memory import available_bytes
from runtime.errors import EngineError
from runtime.kernels.attention import KVCache, PagedAttention
from runtime.kernels.tiled import TiledAttention
from runtime.lora.adapters import Adapters
from runtime.model import rope
from runtime.model.decoder import Segments
from runtime.phases import phase

log = logging.getLogger(__name__)

BLOCK_SIZE = 16

# The share of free memory that the KV cache may take; the rest is for activations and everybody else.
KV_SHARE = {"cpu": 0.5, "cuda": 0.9}


class Engine:
    """Weights or plans, RoPE tables and a KV cache of `num_blocks` blocks."""

    def __init__(
        self,
        folder: Path,
        *,
        device: str | None = None,
        kv_cache_bytes: int | None = None,
        adapters: Mapping[str, Path] | None = None,
        kv_cache_share: float | None = None,
        stand_in: TensorRT | None = None,
    ) -> None:
        """Checks GPU, versions, memory and files against engine.json before any weight is read. Raises EngineError.

        `device` None: what TRTPACK_DEVICE says; else the GPU, without which an engine of the torch backend takes the
        CPU. On a CPU every engine runs as PyTorch modules. `kv_cache_bytes` None takes `kv_cache_share` of the free
        memory, and that None what engine.json or the kind of device says. `adapters` are folders by name, beside those
        in the engine's own; see runtime.lora. `stand_in` executes plans in place of TensorRT, anywhere.
        """
        self.manifest = manifest.read(folder)
        stored = getattr(torch, self.manifest.precision.dtype)
        self.device = _device(self.manifest, device)
        if self.device.type == "cpu":
            cores.use_given()
        self.dtype = stored if stand_in else _compute_dtype(stored, self.device)
        config, limits = self.manifest.model.config, self.manifest.limits
        own = {adapter.name: folder / adapter.folder for adapter in self.manifest.adapters}
        self.adapters = Adapters({**own, **(adapters or {})}, config)
        self.segments = self._open(folder, stand_in)
        self.adapters.attach(self.segments, self.device, self.dtype)
        cos, sin = rope.tables(config.rope, config.head_dim, limits.max_model_len)
        self._cos, self._sin = (table.to(self.device, self.dtype) for table in (cos, sin))
        with phase("cache"):
            self.num_blocks = self._plan_blocks(kv_cache_bytes, kv_cache_share)
            self._kv = KVCache(config, self.num_blocks, BLOCK_SIZE, self.dtype, self.device)

    @torch.inference_mode()
    def forward(self, batch: Batch) -> Tensor:
        """Computes a step's tokens into the KV cache; returns float32 logits [N, vocabulary] of `logit_rows`."""
        cos, sin = self._cos[batch.positions], self._sin[batch.positions]
        attention = TiledAttention if self.device.type == "cpu" else PagedAttention
        attend = attention(self.manifest.model.config, self._kv, batch)
        self.adapters.follow(batch)
        hidden = self.segments.hidden(batch.tokens, cos, sin, attend)
        return self.segments.head(hidden[batch.logit_rows]).float()

    def _open(self, folder: Path, stand_in: TensorRT | None) -> Segments:
        found, device = self.manifest, self.device
        if stand_in is not None:
            contract.check_start(folder, found, "cpu")
            first = found.targets[0].compute_capability
            return tensorrt.segments(folder, found, first, device, self.dtype, stand_in)
        gpu = probe() if device.type == "cuda" else None
        if device.type == "cpu" or found.backend.name == "torch":
            contract.check_start(folder, found, device.type, gpu)
            return torch_backend.segments(folder, found, device, self.dtype)
        module = _module(found.backend.name)
        contract.check_start(folder, found, "cuda", gpu, module.__version__ if module else None)
        if gpu is None or module is None:
            raise AssertionError("check_start lets neither pass")
        return tensorrt.segments(folder, found, gpu.compute_capability, device, self.dtype, module)

    def _plan_blocks(self, kv_cache_bytes: int | None, given: float | None) -> int:
        config, limits = self.manifest.model.config, self.manifest.limits
        block_bytes = KVCache.block_bytes(config, BLOCK_SIZE, self.dtype)
        longest = -(-limits.max_model_len // BLOCK_SIZE)
        share = KV_SHARE[self.device.type]
        if self.device.type == "cuda":  # a GPU is the engine's own; of a host's memory others live too
            share = limits.kv_cache_fraction or share
        budget = kv_cache_bytes or int(available_bytes(self.device) * (given or share))
        blocks = min(budget // block_bytes, longest * limits.max_batch_size)
        if blocks < longest:
            raise EngineError(
                f"the KV cache may take {budget / 2**30:.2f} GiB, which holds {blocks * BLOCK_SIZE} tokens; "
                f"max_model_len {limits.max_model_len} needs {longest * block_bytes / 2**30:.2f} GiB: "
                "give more memory, or lower engine.max_model_len in config.yaml and compile again"
            )
        return blocks


def _module(backend: BackendName) -> TensorRT | None:
    """tensorrt_rtx or tensorrt, where it is installed."""
    try:
        module: Any = import_module(backend.replace("-", "_"))
    except ModuleNotFoundError:
        return None
    return cast(TensorRT, module)


def _device(found: Manifest, given: str | None) -> torch.device:
    chosen = given or os.environ.get(DEVICE_VARIABLE)
    if chosen not in (None, "", "cpu", "cuda"):
        raise EngineError(f"{DEVICE_VARIABLE} is {chosen!r}; it may be cpu or cuda")
    if chosen:
        return torch.device(chosen)
    if found.backend.name == "torch" and not torch.cuda.is_available():
        if gpu := probe():
            log.warning("%s is here, but not usable by this PyTorch (driver %s): on the CPU", gpu.name, gpu.driver)
        return torch.device("cpu")
    return torch.device("cuda")


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
