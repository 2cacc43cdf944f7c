"""How fast a GPU could be at best (Williams, Waterman and Patterson 2009, "Roofline", doi:10.1145/1498765.1498785).

A step takes at least as long as moving its bytes through memory, and as doing its arithmetic:

    seconds = max(bytes / bandwidth, FLOPs / rate)

bandwidth [bytes/s] and rate [FLOP/s] are the nominal ones of the GPU table. Everything else (kernels that reach less,
launches, sampling, the network) comes on top, so what follows from it is an upper bound, not a forecast.
"""

from math import ceil, prod

from k8s.gpus import Gpu
from packager.plan.memory import GB, kv_bytes, tensor_bytes
from runtime.engine.manifest import Precision
from runtime.model import layout
from runtime.model.config import ModelConfig


class Roofline:
    """One model in one precision on one GPU."""

    def __init__(self, gpu: Gpu, model: ModelConfig, precision: Precision) -> None:
        self._model = model
        self._bandwidth = gpu.bandwidth_gb_s * GB
        self._rates = _rates(gpu, precision)
        self._token = kv_bytes(model, precision) / model.num_layers
        shapes = list(layout.weights(model))
        # An embedding that is not also the head is looked up: a row a token, next to nothing.
        read = [(name, shape) for name, shape in shapes if name != "embed.weight" or model.tie_word_embeddings]
        self._weights = sum(tensor_bytes(name, shape, precision) for name, shape in read)
        self._layers = 2 * sum(prod(shape) for name, shape in shapes if name.startswith("layers.") and len(shape) == 2)
        self._head = 2 * model.vocab_size * model.hidden_size

    def decode(self, batch: int, context: int) -> float:
        """Tokens/s of `batch` sequences, each with `context` tokens in the KV cache and one more to compute.

        bytes = weights + batch · KV of the context; FLOPs = batch · (2 · weights that are multiplied
        + 4 · heads · head_dim · context · layers). batch / seconds. Without a rate, by the bytes alone.
        """
        moving = (self._weights + batch * self._cache(context)) / self._bandwidth
        return batch / max(moving, batch * (self._compute(context) or 0.0))

    def prefill(self, prompt: int) -> float | None:
        """Tokens/s of a prompt of that many tokens: prompt · rate / FLOPs; None without a rate.

        FLOPs as of `decode` for each token, each attending to those before it and itself: (prompt + 1) / 2 of them on
        average without a window; the head for the last token alone.
        """
        if self._rates is None:
            return None
        attended = sum(_sum_up_to(prompt, window) for window in self._model.windows)
        return prompt / self._seconds(prompt * self._layers, self._head + self._attention(attended), *self._rates)

    def balance(self, context: int) -> int | None:
        """The least batch whose decode step does arithmetic for as long as it moves bytes; more would gain nothing.

        batch · compute = (weights + batch · KV) / bandwidth, so batch = weights / (bandwidth · compute - KV). None
        where there is none, because a sequence's KV alone takes longer to read than its arithmetic, or no rate.
        """
        compute = self._compute(context)
        if compute is None:
            return None
        surplus = self._bandwidth * compute - self._cache(context)
        return ceil(self._weights / surplus) if surplus > 0 else None

    @property
    def has_rate(self) -> bool:
        """Whether the table knows the rate of the arithmetic that this precision uses."""
        return self._rates is not None

    def _compute(self, context: int) -> float | None:
        """Seconds of arithmetic for one sequence's next token."""
        if self._rates is None:
            return None
        return self._seconds(self._layers, self._head + self._attention(self._seen(context)), *self._rates)

    @staticmethod
    def _seconds(layers: int, others: int, layers_rate: float, others_rate: float) -> float:
        """For the FLOPs of the linear layers, and of head and attention, which may have another rate."""
        return layers / layers_rate + others / others_rate

    def _cache(self, context: int) -> float:
        """Bytes of keys and values that a sequence's next token reads."""
        return self._token * self._seen(context)

    def _seen(self, context: int) -> int:
        """Tokens attended to, summed over the layers: a window bounds a layer's."""
        return sum(min(context, window or context) for window in self._model.windows)

    def _attention(self, seen: int) -> int:
        """FLOPs of one query against `seen` keys and their values: a multiplication and an addition each."""
        return 4 * self._model.q_size * seen


def _rates(gpu: Gpu, precision: Precision) -> tuple[float, float] | None:
    """FLOP/s of the linear layers, and of head and attention; None where the table lacks one.

    Weight-only schemes compute in the dtype; float16 runs at bfloat16's rate wherever there is one. The table has no
    rate for float32 nor for int8.
    """
    scheme = precision.quantization.scheme if precision.quantization else None
    half = gpu.bf16_tflops
    layers = gpu.fp8_tflops if scheme == "fp8" else half
    if layers is None or half is None or scheme == "smoothquant" or precision.dtype == "float32":
        return None
    return layers * 10**12, half * 10**12


def _sum_up_to(tokens: int, window: int | None) -> int:
    """The tokens that each of so many attends to, together: 1 + 2 + … up to the window, then the window."""
    full = min(tokens, window or tokens)
    return full * (full + 1) // 2 + (tokens - full) * full
