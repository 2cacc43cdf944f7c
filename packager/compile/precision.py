"""An engine's weights in the precision that was asked for."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import Tensor

from packager import progress
from packager.checkpoint.base import Checkpoint
from packager.compile import weights
from packager.compile.weights import DTYPES, Weight, Writer
from packager.config.engine import EngineConfig
from packager.quantize import METHODS, Quantizer, groups, text
from runtime.engine.manifest import Precision, Quantization, Scheme
from runtime.tokenizer import Tokenizer

# Where the weights go that plans hold themselves: what runs on a CPU reads them.
EMBEDDED = "weights/embedded"
# What the runtime reads in any case: the lookup, and the head's weight, an input of its plan.
_NEVER_EMBEDDED = ("embed.weight", "head.weight")
# Tokens of a sequence that activations and quality are measured on.
_SEQUENCE = 512


def write(
    checkpoint: Checkpoint, listed: list[Weight], config: EngineConfig, folder: Path, *, embedded: bool
) -> Precision:
    """Writes `folder`/weights; `embedded` keeps what the plans will hold in files of its own. Raises TrtpackError."""
    (folder / "weights").mkdir()
    loose, inside = Writer(folder, "weights/model"), Writer(folder, EMBEDDED)

    def keep(tensors: Iterable[tuple[str, Tensor]]) -> None:
        for name, tensor in tensors:
            (inside if embedded and name not in _NEVER_EMBEDDED else loose).add(name, tensor)
        loose.flush()
        inside.flush()

    if config.quantization is None:
        keep(_plain(checkpoint, listed, config))
        return Precision(dtype=config.dtype)
    quantization = _quantization(config.quantization, config.group_size)
    quantizer = _quantizer(checkpoint, listed, config, quantization, folder / "tokenizer")
    with progress.task(f"Quantising to {config.quantization}", weights.size(listed, config.dtype)) as advance:
        keep(quantizer.tensors(advance))
    quantization = quantization.model_copy(update={"quality": quantizer.quality})
    return Precision(dtype=config.dtype, quantization=quantization)


def _quantization(scheme: Scheme, group_size: int | None) -> Quantization:
    size = (group_size or groups.DEFAULT) if scheme == "int4" else None
    return Quantization(scheme=scheme, group_size=size, method=METHODS[scheme])


def _quantizer(
    checkpoint: Checkpoint, listed: list[Weight], config: EngineConfig, quantization: Quantization, tokenizer: Path
) -> Quantizer:
    by_name = {weight.name: weight for weight in listed}
    encode = Tokenizer(tokenizer, sys.maxsize).encode  # the texts are cut afterwards, into sequences of this length
    length = min(_SEQUENCE, checkpoint.model.max_position_embeddings)
    given = Path(config.calibration) if config.calibration else None
    return Quantizer(
        checkpoint.model,
        quantization,
        lambda name: weights.merged(checkpoint, by_name[name], config.dtype),
        text.sequences(text.calibration(given), encode, length),
        text.sequences(text.evaluation(), encode, length),
        DTYPES[config.dtype],
    )


def _plain(checkpoint: Checkpoint, listed: list[Weight], config: EngineConfig) -> Iterator[tuple[str, Tensor]]:
    with progress.task(f"Writing weights in {config.dtype}", weights.size(listed, config.dtype)) as advance:
        for weight in listed:
            tensor = weights.merged(checkpoint, weight, config.dtype)
            yield weight.name, tensor
            advance(tensor.nbytes, weight.name)
