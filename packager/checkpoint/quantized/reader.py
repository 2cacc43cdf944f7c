"""A folder's tensors under the names and shapes of the model, whether its layers are stored quantised or not."""

import re
from collections import defaultdict
from collections.abc import Mapping

import torch

from packager.checkpoint.quantized.format import Format
from packager.checkpoint.quantized.layer import UNQUANTISED, Layer
from packager.checkpoint.shard import Shard
from packager.errors import TrtpackError
from runtime.model.config import ModelConfig

# Scales of activations and of the KV cache, for kernels that quantise those; an engine measures its own. Names:
# compressed-tensors' QuantizationMetadata and KVCacheScaleType, AutoFP8 (act_scale, kv_scale), transformers' FP8Linear
# (activation_scale), vLLM's Fp8Config.get_cache_scale (prob_output_scale).
_ACTIVATIONS = re.compile(r".*\.(input|output|prob_output|act|activation|q|k|v|kv)_(scale|zero_point|global_scale)")
_BIASES = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), "qkv_bias"),
    "o_proj": "o_bias",
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), "mlp_bias"),
}


class Reader:
    """`shapes` has every tensor of the model; `stored` says in words how the dequantised ones were stored."""

    def __init__(self, source: str, shards: Mapping[str, Shard], format: Format | None, model: ModelConfig) -> None:
        """`shards` has the file of each tensor. Raises TrtpackError naming a tensor that cannot be read."""
        self._shards, self._format = shards, format
        self._layers: dict[str, Layer] = {}
        self.shapes = {name: shard.shapes[name] for name, shard in shards.items()}
        self.stored = format.stored if format else None
        if format is not None:
            self._take(format, model)
            if format.stored and not self._layers:
                raise TrtpackError(f"{source} is said to be quantised ({format.stored}), but no layer is", UNQUANTISED)
        for name in self.shapes.keys() - self._layers.keys():
            shards[name].check_floating(name)

    def get(self, name: str) -> torch.Tensor:
        """As stored, or float32 where it was quantised. Raises KeyError for a name not in `shapes`."""
        if self._format is not None and name in self._layers:
            return self._format.weight(self._layers[name])
        if name not in self.shapes:
            raise KeyError(name)
        return self._shards[name].get(name)

    def _take(self, format: Format, model: ModelConfig) -> None:
        """Puts one weight in the place of each quantised layer's parts."""
        parts: dict[str, dict[str, Shard]] = defaultdict(dict)
        for name, shard in self._shards.items():
            module, _, part = name.rpartition(".")
            if part in format.parts:
                parts[module][part] = shard
        for layer in (Layer(module, found) for module, found in parts.items()):
            if format.holds(layer):
                for part in layer.parts:
                    del self.shapes[f"{layer.name}.{part}"]
                self._drop_spare_bias(layer.name, model)
                self._layers[f"{layer.name}.weight"] = layer
                self.shapes[f"{layer.name}.weight"] = format.shape(layer)
        for name in [name for name in self.shapes if _ACTIVATIONS.fullmatch(name)]:
            del self.shapes[name]

    def _drop_spare_bias(self, layer: str, model: ModelConfig) -> None:
        """AutoGPTQ gives every layer it quantises a bias, which is zero where the model has none."""
        name, has = f"{layer}.bias", _BIASES.get(layer.rpartition(".")[2])
        if name in self.shapes and not (has and getattr(model, has)) and not self._shards[name].get(name).any():
            del self.shapes[name]
