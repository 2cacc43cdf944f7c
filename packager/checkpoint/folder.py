"""A Hugging Face checkpoint folder: config.json, safetensors weights, tokenizer files."""

from collections.abc import Mapping
from pathlib import Path

import torch

from packager.checkpoint import json_file, quantized, tokenizer
from packager.checkpoint.base import Checkpoint, parse_model
from packager.checkpoint.shard import Shard
from packager.errors import TrtpackError
from runtime.lora import settings

# What of a repository is read. Sub-folders hold other formats (original/, onnx/); consolidated* are the same weights
# again in Mistral's own naming.
WANTED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt")
UNWANTED = ("*/*", "consolidated*")
# One of these lies in a checkpoint's folder, the other in an adapter's.
CONFIGS = ("config.json", settings.FILE_NAME)
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class FolderCheckpoint(Checkpoint):
    """A folder as `save_pretrained` writes it, quantised or not; `source` is how the user named it.

    Quantised layers appear as the weights they stand for, and `config` has no quantization_config.
    """

    def __init__(self, folder: Path, source: str, revision: str | None = None) -> None:
        """Raises TrtpackError when a file is missing, truncated, pickled, or not a supported model or quantisation."""
        self.folder = folder
        config = json_file.read(folder / "config.json")
        format = quantized.recognise(source, config)
        _, model = parse_model(source, config)
        self._tensors = quantized.Reader(source, _shards(folder), format, model)
        config.pop("quantization_config", None)
        generation = json_file.read_optional(folder / "generation_config.json")
        super().__init__(source, config, self._tensors.shapes, generation, revision, self._tensors.stored)

    def get(self, name: str) -> torch.Tensor:
        return self._tensors.get(name)

    def write_tokenizer(self, folder: Path) -> None:
        tokenizer.copy(self.folder, folder)


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
    weight_map = json_file.read(folder / _INDEX).get("weight_map")
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
