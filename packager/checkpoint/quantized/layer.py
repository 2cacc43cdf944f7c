"""A linear layer that is stored quantised: its parts, each checked against what the format says of it."""

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass

import torch

from packager.checkpoint.shard import FLOATING, Shard
from packager.errors import TrtpackError

UNQUANTISED = "Compile its unquantised original instead; engine.quantization quantises that."
_MEND = "Download the checkpoint again, or compile its unquantised original."


@dataclass(frozen=True)
class Layer:
    """`parts` has the file of each tensor NAME.part, under the part's name."""

    name: str
    parts: Mapping[str, Shard]

    def __contains__(self, part: str) -> bool:
        return part in self.parts

    def matrix(self, part: str, *dtypes: str) -> tuple[int, int]:
        """A part's shape, of two dimensions. Raises TrtpackError where it is missing, of other types or not that."""
        shape = self._checked(part, dtypes)
        if len(shape) != 2:
            raise self.error(part, f"has shape {list(shape)}, expected two dimensions")
        return shape[0], shape[1]

    def expect(self, part: str, *shapes: tuple[int, ...], dtypes: Set[str] = FLOATING) -> None:
        """Raises TrtpackError, naming file and tensor, unless the part is there, of one of these shapes and types."""
        shape = self._checked(part, dtypes)
        if shape not in shapes:
            raise self.error(part, f"has shape {list(shape)}, expected {' or '.join(str(list(s)) for s in shapes)}")

    def dtype(self, part: str) -> str:
        """As safetensors spells it: I32, F8_E4M3. Raises KeyError where there is no such part."""
        return self.parts[part].dtypes[f"{self.name}.{part}"]

    def read(self, part: str) -> torch.Tensor:
        """The part as stored. Raises KeyError where there is no such part."""
        return self.parts[part].get(f"{self.name}.{part}")

    def error(self, part: str, problem: str) -> TrtpackError:
        """What is wrong with a part that is there."""
        return TrtpackError(f"{self.parts[part].path}: {self.name}.{part} {problem}", _MEND)

    def _checked(self, part: str, dtypes: Collection[str]) -> tuple[int, ...]:
        if part not in self.parts:
            there, shard = next(iter(self.parts.items()))
            raise TrtpackError(f"{shard.path}: {self.name} has {there} but no {part}", _MEND)
        if (dtype := self.dtype(part)) not in dtypes:
            raise self.error(part, f"is stored as {dtype}, expected {' or '.join(sorted(dtypes))}")
        return self.parts[part].shapes[f"{self.name}.{part}"]
