"""What a quantised format tells of itself and of each layer."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, model_validator

from packager.checkpoint.quantized.layer import Layer


class Format(BaseModel, ABC):
    """A config.json's `quantization_config`, of which the fields are those that say how weights are stored.

    `parts` are the last components of the names under which a quantised layer is stored.
    """

    model_config = ConfigDict(frozen=True)
    parts: ClassVar[frozenset[str]]

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, said: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in said.items() if value is not None}

    @property
    @abstractmethod
    def stored(self) -> str | None:
        """In words: "gptq, 4 bits, group 128, asymmetric". None where no weight is quantised."""

    @abstractmethod
    def holds(self, layer: Layer) -> bool:
        """Whether the layer is one of the quantised ones."""

    @abstractmethod
    def shape(self, layer: Layer) -> tuple[int, int]:
        """Its weight's [out_features, in_features]. Raises TrtpackError naming a part that is missing or wrong."""

    @abstractmethod
    def weight(self, layer: Layer) -> torch.Tensor:
        """Its weight, float32 [out_features, in_features], contiguous; the layer has passed `shape`."""
