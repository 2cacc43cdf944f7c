"""An engine's weights quantised in one pass, a layer at a time, beside the same model unquantised."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from packager.progress import Advance
from packager.quantize import activations, quality, text
from packager.quantize.activations import Activations
from packager.quantize.fold import fold, foldable, tied
from packager.quantize.inputs import Inputs
from packager.quantize.rounding import Rounding
from packager.quantize.search import best_scale
from runtime.engine.manifest import Quality, Quantization
from runtime.model import layout
from runtime.model.config import ModelConfig
from runtime.model.norms import NORMS
from runtime.model.quantization import LINEARS

Load = Callable[[str], Tensor]


class Quantizer:
    """Holds one layer, the activations of both texts before it, and at the ends the embedding or the head.

    It computes in float32, so the quality it reports is the cost of the rounding alone.
    """

    def __init__(
        self,
        config: ModelConfig,
        quantization: Quantization,
        load: Load,
        calibration: Sequence[Sequence[int]],
        evaluation: Sequence[Sequence[int]],
        dtype: torch.dtype,
        evaluation_text: str = text.EVALUATION,
    ) -> None:
        """`load` gives an engine tensor in `dtype` by its name in the layout; the two texts are token sequences.

        Raises TrtpackError naming a linear layer whose width no group divides.
        """
        self._config, self._method, self._load = config, quantization.method, load
        self._calibration, self._evaluation, self._text = calibration, evaluation, evaluation_text
        self._dtype, self._rounding = dtype, Rounding(quantization, dtype)
        self._quality: Quality | None = None
        for name, shape in layout.layer(config):
            if name.removesuffix(".weight") in LINEARS:
                self._rounding.group_size(f"layers.0.{name}", shape[1])

    @property
    def quality(self) -> Quality:
        """What it cost; to be asked for when the last of `tensors` was taken."""
        if self._quality is None:
            raise RuntimeError("quality is measured at the end of tensors()")
        return self._quality

    @torch.no_grad()
    def tensors(self, advance: Advance = lambda amount, following="", /: None) -> Iterator[tuple[str, Tensor]]:
        """The quantised engine's tensors in layout order, a linear layer's scales after its weight.

        `advance` is told the bytes that were read, which add up to the unquantised engine's.
        """
        config = self._config
        embedding = self._load("embed.weight")
        reference, quantized = (Activations(config, self._evaluation, embedding) for _ in range(2))
        calibration = Activations(config, self._calibration, embedding) if self._is_calibrated else None
        yield "embed.weight", embedding
        advance(embedding.nbytes, "layers.0")
        del embedding
        for index, window in enumerate(config.windows):
            prefix = f"layers.{index}."
            tensors = {name: self._load(prefix + name) for name, _ in layout.layer(config)}
            exact = activations.layer(config, tensors)
            reference.advance(exact, window)
            inputs: Mapping[str, Inputs] = {}
            if calibration:
                with activations.recorded(exact, with_gram=self._method == "gptq") as inputs:
                    calibration.advance(exact, window)
            stored = dict(self._quantized(tensors, inputs))
            quantized.advance(activations.layer(config, stored), window)
            yield from ((prefix + name, tensor) for name, tensor in stored.items())
            advance(sum(tensor.nbytes for tensor in tensors.values()), f"layers.{index + 1}")
        yield from self._finish(reference.residual, quantized.residual, advance)

    @property
    def _is_calibrated(self) -> bool:
        return self._method != "rtn" or self._rounding.quantizes_inputs

    def _quantized(self, tensors: Mapping[str, Tensor], inputs: Mapping[str, Inputs]) -> Iterator[tuple[str, Tensor]]:
        """One layer's tensors, from what they are in the engine's dtype to how they are stored."""
        floats, seen = {name: tensor.float() for name, tensor in tensors.items()}, dict(inputs)
        for linear in foldable(self._config) if self._method in ("awq", "smoothquant") else ():
            scale = self._best_scale(floats[f"{linear}.weight"], linear, seen[linear])
            floats, applied = fold(floats, linear, scale, self._config, self._dtype)
            seen[linear] = seen[linear].divided(applied)
        for name, tensor in floats.items():
            linear, _, kind = name.partition(".")
            if linear not in LINEARS or kind != "weight":
                yield name, tensor.to(self._dtype)
                continue
            found = seen.get(linear)
            if found and self._method == "gptq":
                rounded = self._rounding.compensated(tensor, found)
            else:
                rounded = self._rounding.clipped(tensor, found)
            weight, weight_scale = self._rounding.stored(rounded)
            yield name, weight
            yield f"{linear}.weight_scale", weight_scale
            if found and (input_scale := self._rounding.input_scale(tensor, found)) is not None:
                yield f"{linear}.input_scale", input_scale.to(self._dtype)

    def _best_scale(self, weight: Tensor, linear: str, inputs: Inputs) -> Tensor:
        def tie(scale: Tensor) -> Tensor:
            return tied(linear, scale, self._config)

        return best_scale(weight, inputs, self._rounding, self._method, tie)

    def _finish(self, reference: Tensor, quantized: Tensor, advance: Advance) -> Iterator[tuple[str, Tensor]]:
        config = self._config
        weight = self._load("norm.weight")
        yield "norm.weight", weight
        advance(weight.nbytes, "head")
        with torch.device("meta"):
            norm = NORMS.find(config.norm)(config.hidden_size, config.rms_norm_eps)
        norm.load_state_dict({"weight": weight.float()}, assign=True)
        head = self._load("embed.weight" if config.tie_word_embeddings else "head.weight")
        if not config.tie_word_embeddings:
            yield "head.weight", head
            advance(head.nbytes)
        wide = head.float()
        self._quality = quality.measure(
            self._text, self._evaluation, reference, quantized, lambda rows: norm(rows) @ wide.T
        )
