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
from packager.quantize import Quantizer, quantization, text
from runtime.engine.manifest import Precision, Quantization
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
    chosen = quantization(config.quantization, config.group_size)
    made = quantizer(checkpoint, listed, config, chosen, folder / "tokenizer")
    with progress.task(f"Quantising to {config.quantization}", weights.size(listed, config.dtype)) as advance:
        keep(made.tensors(advance))
    return Precision(dtype=config.dtype, quantization=chosen.model_copy(update={"quality": made.quality}))


def quantizer(
    checkpoint: Checkpoint, listed: list[Weight], config: EngineConfig, chosen: Quantization, tokenizer: Path
) -> Quantizer:
    """That of a whole checkpoint, over the calibration that `config` names and the shipped evaluation text.

    `tokenizer` is the engine's folder of it. Raises TrtpackError.
    """
    by_name = {weight.name: weight for weight in listed}
    encode = Tokenizer(tokenizer, sys.maxsize).encode  # the texts are cut afterwards, into sequences of this length
    length = min(_SEQUENCE, checkpoint.model.max_position_embeddings)
    given = Path(config.calibration) if config.calibration else None
    return Quantizer(
        checkpoint.model,
        chosen,
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
