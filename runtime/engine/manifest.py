"""engine.json: the contract between the compiler that writes an engine and the runtime that loads it."""

import hashlib
import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runtime.errors import EngineError
from runtime.model.config import ModelConfig

FORMAT_VERSION = 1
FILE_NAME = "engine.json"
DType = Literal["bfloat16", "float16", "float32"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Model(_Part):
    """What was compiled: `source` as the user named it, `revision` a commit where the source has one."""

    architecture: str
    source: str
    revision: str | None = None
    config: ModelConfig


class Backend(_Part):
    """What executes the engine, and the exact version it was compiled with."""

    name: Literal["torch"]
    version: str


class Target(_Part):
    """The GPU the engine was compiled for; all None: it runs anywhere its backend does."""

    gpu: str | None = None
    compute_capability: str | None = None


class Precision(_Part):
    dtype: DType
    quantization: str | None = None


class Limits(_Part):
    """Tokens a sequence, sequences a batch, tokens a step."""

    max_model_len: int = Field(ge=1)
    max_batch_size: int = Field(ge=1)
    max_num_tokens: int = Field(ge=1)


class Parallelism(_Part):
    tensor: int = 1


class Generation(_Part):
    """Defaults of a request that names none, from the checkpoint's generation_config.json.

    `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off.
    """

    eos_token_ids: tuple[int, ...] = ()
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0


class File(_Part):
    size: int
    sha256: str


class Manifest(_Part):
    """The whole of engine.json. `files` is keyed by POSIX path relative to the engine's folder."""

    format_version: Literal[1] = 1
    trtpack_version: str
    model: Model
    backend: Backend
    target: Target = Target()
    precision: Precision
    limits: Limits
    parallelism: Parallelism = Parallelism()
    generation: Generation = Generation()
    files: dict[str, File]

    def dump(self) -> str:
        """Canonical JSON, the same text for the same content."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"


def read(engine: Path) -> Manifest:
    """The manifest of an engine folder. Raises EngineError when it is missing, unreadable or of another format."""
    path = engine / FILE_NAME
    if not path.is_file():
        raise EngineError(f"{path} does not exist; compile the engine with: trtpack compile")
    try:
        content = json.loads(path.read_bytes())
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise EngineError(
                f"{path} has format version {version}, this runtime reads {FORMAT_VERSION}; "
                "compile again with: trtpack compile"
            )
        return Manifest.model_validate(content)
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, ValidationError) as error:
        raise EngineError(f"{path} is not a valid engine manifest: {error}") from error


def verify(engine: Path, manifest: Manifest) -> None:
    """Compares every file with its recorded size and sha256. Raises EngineError naming the first that differs."""
    for name, expected in manifest.files.items():
        path = engine / name
        if not path.is_file():
            raise EngineError(f"{path} is missing; compile again with: trtpack compile")
        if (size := path.stat().st_size) != expected.size:
            raise EngineError(f"{path} has {size} bytes, engine.json says {expected.size}; compile again")
        if (digest := sha256(path)) != expected.sha256:
            raise EngineError(f"{path} has sha256 {digest}, engine.json says {expected.sha256}; compile again")


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
