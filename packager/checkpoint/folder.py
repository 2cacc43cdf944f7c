"""A Hugging Face checkpoint folder: config.json, safetensors weights, tokenizer files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from packager.checkpoint import tokenizer
from packager.checkpoint.base import Checkpoint
from packager.checkpoint.shard import Shard
from packager.errors import TrtpackError

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class FolderCheckpoint(Checkpoint):
    """A folder as `save_pretrained` writes it; `source` is how the user named it."""

    def __init__(self, folder: Path, source: str, revision: str | None = None) -> None:
        """Raises TrtpackError when a file is missing, truncated, pickled, quantised, or not a supported model."""
        self.folder = folder
        config = read_json(folder / "config.json")
        if method := (config.get("quantization_config") or {}).get("quant_method"):
            raise TrtpackError(f"{source} is quantised ({method})", "Compile its unquantised original instead.")
        self._shards = _shards(folder)
        shapes = {name: shard.shapes[name] for name, shard in self._shards.items()}
        generation = folder / "generation_config.json"
        super().__init__(source, config, shapes, read_json(generation) if generation.exists() else None, revision)

    def get(self, name: str) -> torch.Tensor:
        return self._shards[name].get(name)

    def write_tokenizer(self, folder: Path) -> None:
        tokenizer.copy(self.folder, folder)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises TrtpackError naming the file when it is missing or malformed."""
    if not path.is_file():
        raise TrtpackError(f"{path} is missing", f"{path.parent} does not look like a Hugging Face checkpoint.")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise TrtpackError(f"{path} is not valid JSON: {error}", "Download it again.") from error
    if not isinstance(content, dict):
        raise TrtpackError(f"{path} does not hold a JSON object", "Download it again.")
    return content


def _shards(folder: Path) -> Mapping[str, Shard]:
    """Which file holds each tensor."""
    if (folder / _INDEX).is_file():
        return _indexed(folder)
    if (folder / _SINGLE).is_file():
        shard = Shard(folder / _SINGLE)
        return dict.fromkeys(shard.shapes, shard)
    if pickles := sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern)):
        raise TrtpackError(
            f"{folder} holds only pickled weights ({pickles[0]}), which can run code when loaded",
            "Convert them to safetensors where you trust them: "
            "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(OUT)",
        )
    raise TrtpackError(f"{folder} holds no {_SINGLE} and no {_INDEX}", "Download the checkpoint again.")


def _indexed(folder: Path) -> Mapping[str, Shard]:
    weight_map = read_json(folder / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise TrtpackError(f"{folder / _INDEX} has no weight_map", "Download it again.")
    for file in set(weight_map.values()):
        if not file.endswith(".safetensors") or Path(file).name != file:
            raise TrtpackError(f"{folder / _INDEX} names {file}; only safetensors files beside it are read")
    shards = {file: Shard(folder / file) for file in sorted(set(weight_map.values()))}
    for name, file in weight_map.items():
        if name not in shards[file].shapes:
            raise TrtpackError(f"{folder / file} does not hold {name}, which {_INDEX} says it does")
    return {name: shards[file] for name, file in weight_map.items()}
