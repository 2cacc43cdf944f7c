"""compressed-tensors' description of how some layers are quantised."""

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PositiveInt, field_validator, model_validator

from packager.checkpoint.quantized.groups import grouped


class Weights(BaseModel):
    """How weights are quantised: the library's QuantizationArgs."""

    model_config = ConfigDict(frozen=True)

    num_bits: int = 8
    type: Literal["int", "float"] = "int"
    symmetric: bool = True
    strategy: Literal["tensor", "channel", "group", "block"]
    group_size: int | None = None
    block_structure: tuple[PositiveInt, PositiveInt] | None = None

    @model_validator(mode="before")
    @classmethod
    def _older_spellings(cls, said: Any) -> Any:
        """As the library reads them: a strategy that goes without saying, and blocks as "128x128"."""
        if not isinstance(said, dict):
            return said
        size, block = said.get("group_size"), said.get("block_structure")
        implied = "tensor" if size is None else "channel" if size == -1 else "group"
        blocks = block.split("x") if isinstance(block, str) else block
        return {**said, "strategy": said.get("strategy") or implied, "block_structure": blocks}

    @model_validator(mode="after")
    def _is_read(self) -> "Weights":
        if self.num_bits not in ((4, 8) if self.type == "int" else (8,)):
            raise ValueError(f"{self.num_bits}-bit {self.type} is not read; read: 4-bit and 8-bit int, 8-bit float")
        if self.strategy == "group" and (self.group_size or 0) < 1:
            raise ValueError("strategy group needs a group_size")
        if self.strategy == "block" and self.block_structure is None:
            raise ValueError("strategy block needs a block_structure")
        return self

    def block(self, rows: int, width: int) -> tuple[int, int]:
        """How many rows and columns of a weight [rows, width] share a scale."""
        if self.strategy == "block" and self.block_structure:
            return self.block_structure
        if self.strategy == "group" and self.group_size:
            return 1, self.group_size
        return (1 if self.strategy == "channel" else rows), width

    def __str__(self) -> str:
        kind = f"{self.num_bits} bits" if self.type == "int" else "fp8"
        height, size = self.block_structure or (0, 0)
        scales = {
            "tensor": "one scale a tensor",
            "channel": grouped(None),
            "group": grouped(self.group_size),
            "block": f"blocks of {height} x {size}",
        }
        return f"{kind}, {scales[self.strategy]}, {'symmetric' if self.symmetric else 'asymmetric'}"


class Group(BaseModel):
    """Layers that are quantised alike: the library's QuantizationScheme. `weights` None leaves theirs as they are.

    `targets` are names of layers, patterns of names after "re:", or classes of layers.
    """

    model_config = ConfigDict(frozen=True)

    targets: tuple[str, ...]
    weights: Weights | None = None

    @field_validator("targets")
    @classmethod
    def _patterns_compile(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        for target in targets:
            try:
                re.compile(target)
            except re.error as error:
                raise ValueError(f"{target} is not a pattern: {error}") from error
        return targets

    def names(self, layer: str) -> bool:
        """Whether a target is this layer's name or a pattern of it."""
        return any(
            re.match(target[3:], layer) is not None if target.startswith("re:") else target == layer
            for target in self.targets
        )
