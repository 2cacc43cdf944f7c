"""What a linear layer was given while the model read the calibration text."""

from dataclasses import dataclass

import torch
from torch import Tensor

# Tokens, spread over the text, on which candidates are compared; with twice or half as many SmolLM2's KL moved by 1 %.
_SAMPLE = 256


@dataclass(frozen=True)
class Inputs:
    """Some of the activations, [S, in], and figures of all of them, [in]: mean and largest magnitude, mean square.

    `gram` [in, in] is the mean outer product, where it was asked for, of `tokens` of them.
    """

    sample: Tensor
    magnitude: Tensor
    largest: Tensor
    power: Tensor
    tokens: int = 0
    gram: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor, *, with_gram: bool = False) -> "Inputs":
        """From float32 [T, in]; the sample holds the token with the largest value of all."""
        rows = torch.linspace(0, len(x) - 1, min(_SAMPLE, len(x))).long()
        size = x.abs()
        rows[-1] = size.amax(1).argmax()
        gram = x.T @ x / len(x) if with_gram else None
        return cls(x[rows], size.mean(0), size.amax(0), size.square_().mean(0), len(x), gram)

    def divided(self, scale: Tensor) -> "Inputs":
        """The same after what comes before the layer was divided by `scale` [in]."""
        return Inputs(
            self.sample / scale,
            self.magnitude / scale,
            self.largest / scale,
            self.power / scale.square(),
            self.tokens,
            None if self.gram is None else self.gram / scale / scale.unsqueeze(1),
        )
