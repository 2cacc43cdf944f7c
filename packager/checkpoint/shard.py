"""One .safetensors file: its header, checked against the file's size before any tensor is read.

The format: 8 bytes of little-endian header length N, N bytes of JSON, then the tensors' bytes, which the header
addresses from its own end. Source: https://github.com/huggingface/safetensors#format
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from packager.errors import TrtpackError

_LENGTH = 8
_MAX_HEADER = 100_000_000  # the library's own limit
_LFS_POINTER = b"version https://git-lfs"
FLOATING = frozenset({"F64", "F32", "F16", "BF16"})


class Shard:
    """A complete .safetensors file; `shapes` and `dtypes` map its tensors' names to their shapes and types.

    The types are spelt as in the file: F32, BF16, I32, F8_E4M3.
    """

    def __init__(self, path: Path) -> None:
        """Raises TrtpackError, naming the file, when it is missing or truncated."""
        self.path = path
        header = _header(path)
        try:
            self._file: Any = safe_open(path, framework="pt")
        except SafetensorError as error:
            raise _unreadable(path) from error
        self.shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
        self.dtypes: dict[str, str] = {name: entry["dtype"] for name, entry in header.items()}

    def get(self, name: str) -> torch.Tensor:
        """The tensor of that name, as stored. Raises KeyError."""
        if name not in self.shapes:
            raise KeyError(name)
        tensor: torch.Tensor = self._file.get_tensor(name)
        return tensor

    def check_floating(self, name: str) -> None:
        """Raises TrtpackError for a tensor that is not stored as real numbers."""
        if (dtype := self.dtypes[name]) not in FLOATING:
            raise TrtpackError(
                f"{self.path}: {name} is stored as {dtype}; supported: {', '.join(sorted(FLOATING))}",
                "Use the checkpoint's unquantised original.",
            )


def _header(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise TrtpackError(f"{path} is missing", "Download the checkpoint again; the file may not have arrived.")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(_LFS_POINTER))
        if start == _LFS_POINTER:
            raise TrtpackError(f"{path} is a Git LFS pointer, not the weights", "Fetch them with: git lfs pull")
        length = int.from_bytes(start[:_LENGTH], "little")
        if length > _MAX_HEADER:
            raise _unreadable(path)
        if size < _LENGTH + length:
            raise _truncated(path, f"at least {_LENGTH + length}", size)
        file.seek(_LENGTH)
        text = file.read(length)
    try:
        entries = dict(json.loads(text))
        entries.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise _unreadable(path) from error
    if size < _LENGTH + length + end:
        raise _truncated(path, str(_LENGTH + length + end), size)
    return entries


def _truncated(path: Path, expected: str, found: int) -> TrtpackError:
    return TrtpackError(f"{path} is truncated: expected {expected} bytes, found {found}", "Download it again.")


def _unreadable(path: Path) -> TrtpackError:
    return TrtpackError(f"{path} is not a readable safetensors file", "Download it again.")
