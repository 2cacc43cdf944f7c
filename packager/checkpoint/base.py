"""What a checkpoint offers the compiler, whichever kind of file it came from."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from packager.errors import TrtpackError
from runtime.model import families
from runtime.model.config import ModelConfig


class Checkpoint(ABC):
    """Weights under Hugging Face's names, read one tensor at a time, with the model's config and tokenizer.

    `source` is the checkpoint as the user named it, `revision` the commit it is pinned to where it has one;
    `config` and `generation` are the contents of config.json and generation_config.json; `shapes` has an entry
    for every tensor. `stored` says how weights were quantised that are read dequantised: "awq, 4 bits, group 128,
    asymmetric"; None where they were not.
    """

    def __init__(
        self,
        source: str,
        config: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        generation: Mapping[str, Any] | None = None,
        revision: str | None = None,
        stored: str | None = None,
    ) -> None:
        """Raises TrtpackError when the model is not one the runtime can run."""
        self.source = source
        self.revision = revision
        self.stored = stored
        self.config = config
        self.shapes = shapes
        self.generation = generation or {}
        self.architecture, self.model = parse_model(source, config)

    @abstractmethod
    def get(self, name: str) -> torch.Tensor:
        """The tensor of that name, on the CPU, in the floating type it is stored in (float32 if quantised).

        Raises KeyError for a name not in `shapes`.
        """

    @abstractmethod
    def write_tokenizer(self, folder: Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json, and chat_template.jinja if there is a chat template.

        Raises TrtpackError when the checkpoint holds no usable tokenizer.
        """


def parse_model(source: str, config: Mapping[str, Any]) -> tuple[str, ModelConfig]:
    """The architecture a config.json names, and its shape. Raises TrtpackError when the runtime cannot run it."""
    try:
        return families.architecture(config), families.parse(config)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TrtpackError(f"{source}: config.json: {where + ': ' if where else ''}{first['msg']}") from error
    except ValueError as error:
        raise TrtpackError(f"{source}: {error}") from error
