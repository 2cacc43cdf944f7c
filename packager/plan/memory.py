"""What an engine takes of a GPU's memory: its weights, and in what they leave, the KV cache."""

from dataclasses import dataclass
from math import ceil, prod

from k8s.gpus import Gpu
from packager.compile.weights import DTYPES
from packager.quantize.groups import group_size
from runtime.engine.engine import BLOCK_SIZE, KV_SHARE
from runtime.engine.manifest import Limits, Precision
from runtime.kernels.attention import KVCache
from runtime.model import layout
from runtime.model.config import ModelConfig
from runtime.model.quantization import LINEARS

GB = 10**9


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU. `blocks`: how many blocks of BLOCK_SIZE tokens its KV cache has room for."""

    total: int
    weights: int
    token: int
    share: float
    longest: int

    @property
    def left(self) -> int:
        """What the weights leave: total - weights; negative where they do not fit."""
        return self.total - self.weights

    @property
    def blocks(self) -> int:
        """left · share / bytes of a block, rounded down, as `Engine` counts them when it starts."""
        return max(0, int(self.left * self.share) // (self.token * BLOCK_SIZE))

    @property
    def tokens(self) -> int:
        """The tokens of all sequences together that the KV cache holds."""
        return self.blocks * BLOCK_SIZE

    @property
    def fits(self) -> bool:
        """Whether `Engine` starts: with the weights, and a sequence of the longest length."""
        return self.sequences(self.longest) > 0

    @property
    def gpus(self) -> int:
        """The GPUs of this type whose memory together is enough: (weights + longest sequence / share) / total."""
        sequence = _blocks(self.longest) * BLOCK_SIZE * self.token
        return ceil((self.weights + sequence / self.share) / self.total)

    def sequences(self, length: int) -> int:
        """How many sequences of that many tokens the KV cache holds; each begins a block of its own."""
        return self.blocks // _blocks(length)


def memory(gpu: Gpu, model: ModelConfig, precision: Precision, limits: Limits) -> Memory:
    """The table's gigabytes are taken as 10^9 bytes; drivers report somewhat more (L4: 23034 MiB, H100: 81559 MiB).

    Activations, the CUDA context and the kernels' code are to fit in the share that the KV cache does not take.
    """
    return Memory(
        total=gpu.memory_gb * GB,
        weights=weight_bytes(model, precision),
        token=kv_bytes(model, precision),
        share=limits.kv_cache_fraction or KV_SHARE["cuda"],
        longest=limits.max_model_len,
    )


def kv_bytes(model: ModelConfig, precision: Precision) -> int:
    """Bytes of a token's keys and values: 2 · layers · KV heads · head_dim · bytes of the dtype.

    A sliding window bounds what a layer reads, not what the cache keeps.
    """
    return KVCache.block_bytes(model, 1, DTYPES[precision.dtype])


def weight_bytes(model: ModelConfig, precision: Precision) -> int:
    """Bytes of every tensor of the engine, a tied embedding once. Raises TrtpackError where no group divides a row."""
    return sum(tensor_bytes(name, shape, precision) for name, shape in layout.weights(model))


def tensor_bytes(name: str, shape: layout.Shape, precision: Precision) -> int:
    """Bytes of an engine's tensor as it is stored, scales included.

    Elements · bytes of the dtype; for a quantised linear layer [out, in] out · in · bits / 8, with a scale in the
    dtype for each row or each group of a row, and where activations are quantised too, one for those.
    """
    itemsize, quantization = DTYPES[precision.dtype].itemsize, precision.quantization
    layer, _, parameter = name.rpartition(".")
    if quantization is None or parameter != "weight" or layer.rpartition(".")[2] not in LINEARS:
        return prod(shape) * itemsize
    rows, width = shape
    scales = rows * width // group_size(layer, width, quantization.group_size) + quantization.quantizes_inputs
    return prod(shape) * quantization.bits // 8 + scales * itemsize


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_SIZE)
