"""A linear layer with adapters on top of it."""

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from runtime.lora.adapter import Pair
from runtime.lora.rows import Rows


class AdaptedLinear(nn.Module):
    """`linear`, whatever its weights are stored as, and what each row's adapter adds to its result."""

    def __init__(self, linear: nn.Module, rows: Rows) -> None:
        super().__init__()
        self.linear, self.pairs, self._rows = linear, dict[str, Pair](), rows

    def forward(self, input: Tensor) -> Tensor:
        """[T, in] → [T, out]."""
        output: Tensor = self.linear(input)
        for name, index in self._rows.shares:
            if pair := self.pairs.get(name):
                gain = F.linear(F.linear(input[index], pair.down), pair.up)
                if isinstance(index, slice):
                    output[index].add_(gain)
                else:
                    output.index_add_(0, index, gain)
        return output
