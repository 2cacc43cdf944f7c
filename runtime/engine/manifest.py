"""engine.json: the contract between the compiler that writes an engine and the runtime that loads it."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from runtime.errors import EngineError
from runtime.model.config import ModelConfig

FORMAT_VERSION = 2
FILE_NAME = "engine.json"
ADAPTERS = "adapters"
DType = Literal["bfloat16", "float16", "float32"]
BackendName = Literal["torch", "tensorrt-rtx", "tensorrt"]
Scheme = Literal["int8", "int4", "fp8", "smoothquant"]
Method = Literal["rtn", "awq", "gptq", "smoothquant"]
WeightsMode = Literal["inputs", "embedded"]
# It names a folder, too.
ADAPTER_NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
SpeculationMethod = Literal["prompt_lookup", "draft_model"]
DRAFT_FOLDER = "draft"
_CHUNK = 2**20


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Model(_Part):
    """What was compiled: `source` as the user named it, `revision` a commit where the source has one."""

    architecture: str
    source: str
    revision: str | None = None
    config: ModelConfig


class Backend(_Part):
    """What executes the segments, and the exact version it was compiled with; `torch` runs all that lies between."""

    name: BackendName
    version: str
    torch: str


class Target(_Part):
    """A GPU the engine was compiled for: its name in the GPU table, and its compute capability such as "8.9"."""

    gpu: str
    compute_capability: str


class Quality(_Part):
    """What quantisation cost on a fixed text of `tokens` predicted tokens, against the same weights unquantised.

    `kl`: mean Kullback-Leibler divergence of the next-token distributions, in nats; `perplexity` of both.
    """

    text: str
    tokens: int
    kl: float
    perplexity: float
    reference_perplexity: float


class Quantization(_Part):
    """How the linear layers between embedding and head are stored.

    `group_size`: input features that share a scale, of the layers whose width it divides; None: a scale for each row.
    `method`: "rtn" rounds to nearest; "awq" scales the salient channels first; "gptq" lets later columns make up for
    the errors of earlier ones; "smoothquant" moves outliers from activations to weights.
    """

    scheme: Scheme
    group_size: int | None = None
    method: Method = "rtn"
    quality: Quality | None = None

    @property
    def bits(self) -> int:
        """Of a stored weight."""
        return 4 if self.scheme == "int4" else 8

    @property
    def quantizes_inputs(self) -> bool:
        """Whether activations are stored in eight bits too."""
        return self.scheme in ("fp8", "smoothquant")


class Precision(_Part):
    dtype: DType
    quantization: Quantization | None = None


class Limits(_Part):
    """Tokens a sequence, sequences a batch, tokens a step; the share of a GPU's free memory for the KV cache."""

    max_model_len: int = Field(ge=1)
    max_batch_size: int = Field(ge=1)
    max_num_tokens: int = Field(ge=1)
    kv_cache_fraction: float | None = Field(default=None, gt=0, le=1)


class Scheduling(_Part):
    """How requests share the engine.

    `policy`: "fcfs" is first come, first served; "priority" lets requests of a lower priority number go first.
    `admission`: "on_demand" lets a request in when its next tokens fit, and preempts when later ones do not;
    "guaranteed" only when all it may ever need fits, and never preempts (TensorRT-LLM's GUARANTEED_NO_EVICT).
    `prefill_chunk`: the most prompt tokens of a step while other requests decode. Beyond `max_waiting` requests in the
    queue one more is refused. `prefix_caching`: requests that begin alike share what was computed of it.
    """

    policy: Literal["fcfs", "priority"] = "fcfs"
    admission: Literal["on_demand", "guaranteed"] = "on_demand"
    prefill_chunk: int = Field(default=512, ge=1)
    max_waiting: int = Field(default=1024, ge=1)
    prefix_caching: bool = True


class Speculation(_Part):
    """How tokens are guessed ahead, at most `tokens` a step; the engine of a draft model lies in DRAFT_FOLDER.

    That folder has an engine.json of its own, so its files are none of the manifest's.
    """

    method: SpeculationMethod
    tokens: int = Field(default=4, ge=1)


class Parallelism(_Part):
    tensor: int = 1


class Generation(_Part):
    """Defaults of a request that names none, from the checkpoint's generation_config.json.

    `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off. `max_new_tokens` is cut to what the context holds.
    """

    eos_token_ids: tuple[int, ...] = ()
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    max_new_tokens: int = Field(default=512, ge=1)


class Adapter(_Part):
    """A LoRA adapter that requests may choose by `name`; `source` and `revision` as of the model."""

    name: Annotated[str, StringConstraints(pattern=f"^{ADAPTER_NAME}$")]
    source: str
    revision: str | None = None

    @property
    def folder(self) -> str:
        """Where its files lie, relative to the engine's folder."""
        return f"{ADAPTERS}/{self.name}"


class File(_Part):
    """`optional`: read on a CPU only; an image for the engine's GPU may leave it out."""

    size: int
    sha256: str
    optional: bool = False


class Manifest(_Part):
    """The whole of engine.json.

    `targets`: without one the engine runs anywhere its backend does. `weights`: whether plans take them as network
    inputs, or hold them. `files` is keyed by POSIX path relative to the engine's folder.
    """

    format_version: Literal[2] = 2
    trtpack_version: str
    model: Model
    backend: Backend
    targets: tuple[Target, ...] = ()
    weights: WeightsMode = "inputs"
    precision: Precision
    limits: Limits
    scheduling: Scheduling = Scheduling()
    parallelism: Parallelism = Parallelism()
    generation: Generation = Generation()
    adapters: tuple[Adapter, ...] = ()
    speculation: Speculation | None = None
    files: dict[str, File]

    @property
    def has_draft(self) -> bool:
        """Whether there is the engine of a draft model in DRAFT_FOLDER."""
        return self.speculation is not None and self.speculation.method == "draft_model"

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
    """Compares every file with its recorded size and sha256. Raises EngineError naming the first that differs.

    An optional file may be absent, but not damaged.
    """
    for name in manifest.files:
        if text := problem(engine, manifest, name):
            raise EngineError(text)


def problem(
    engine: Path,
    manifest: Manifest,
    name: str,
    advance: Callable[[int], None] = lambda count: None,
    *,
    checksum: bool = True,
) -> str | None:
    """How one file differs from its record, or None; without `checksum` its size alone is compared.

    `advance` is called with each number of bytes read.
    """
    path, expected = engine / name, manifest.files[name]
    if not path.is_file():
        return None if expected.optional else f"{path} is missing; compile again with: trtpack compile"
    if (size := path.stat().st_size) != expected.size:
        return f"{path} has {size} bytes, engine.json says {expected.size}; compile again"
    if checksum and (digest := sha256(path, advance)) != expected.sha256:
        return f"{path} has sha256 {digest}, engine.json says {expected.sha256}; compile again"
    return None


def sha256(path: Path, advance: Callable[[int], None] = lambda count: None) -> str:
    """Hex digest of a file's content; `advance` is called with each number of bytes read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()
