"""The adapters of an engine, by name."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from runtime.batch import Batch
from runtime.errors import EngineError, InputError
from runtime.lora.adapter import read
from runtime.lora.linear import AdaptedLinear
from runtime.lora.rows import Rows
from runtime.model.config import ModelConfig
from runtime.model.decoder import Layer, Middle, Opening, Segments


class Adapters:
    """Read from their folders first, so that a wrong one costs no time; then laid over an engine's linear layers."""

    def __init__(self, folders: Mapping[str, Path], config: ModelConfig) -> None:
        """Raises EngineError for an adapter that is not supported, or of another model."""
        if "" in folders:
            raise EngineError("an adapter needs a name")
        self._adapters = {name: read(folder, config) for name, folder in folders.items()}
        self._rows = Rows()

    def check(self, name: str) -> None:
        """Raises InputError for a name that a request cannot choose; "" chooses none."""
        if name and name not in self._adapters:
            known = ", ".join(sorted(self._adapters)) or "this engine has none"
            raise InputError(f"adapter: {name!r} is not known; known: {known}")

    def attach(self, segments: Segments, device: torch.device, dtype: torch.dtype) -> None:
        """Wraps the linears that an adapter changes, whatever module they are. Raises EngineError for plans."""
        if not self._adapters:
            return
        layers = list(_layers(segments))
        for name, adapter in self._adapters.items():
            for (index, linear), pair in adapter.items():
                adapted = getattr(layers[index], linear)
                if not isinstance(adapted, AdaptedLinear):
                    adapted = AdaptedLinear(adapted, self._rows)
                    setattr(layers[index], linear, adapted)
                adapted.pairs[name] = pair.to(device, dtype)

    def follow(self, batch: Batch) -> None:
        """To be told of each step before it is computed."""
        if self._adapters:
            self._rows.follow(batch)


def _layers(segments: Segments) -> Iterator[Layer]:
    """In order. Every one but the first follows an attention, and opens the way to the next."""
    for segment in (segments.opening, *segments.middles):
        if isinstance(segment, Opening):
            yield segment.first
        elif isinstance(segment, Middle):
            yield segment.following
        else:
            raise EngineError(
                "a compiled plan has no place for adapters: compile with engine.backend torch, or merge the adapter "
                "into its checkpoint"
            )
