"""From a checkpoint to an engine folder: tokenizer, weights in the runtime's layout, plans, engine.json."""

import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError

from packager import swap
from packager.checkpoint import json_file
from packager.checkpoint.adapter import AdapterCheckpoint
from packager.checkpoint.base import Checkpoint
from packager.compile import adapters as lora
from packager.compile import generation, precision, weights
from packager.compile.limits import limits
from packager.compile.target import Choice
from packager.config.engine import EngineConfig
from packager.errors import TrtpackError
from runtime.engine import manifest
from runtime.engine.manifest import Backend, File, Limits, Manifest, Model, Speculation, WeightsMode
from runtime.tokenizer import same_vocabulary

if TYPE_CHECKING:
    from packager.compile.tensorrt import Builder


def compile_engine(
    checkpoint: Checkpoint,
    config: EngineConfig,
    out: Path,
    choice: Choice | None = None,
    *,
    adapters: Sequence[AdapterCheckpoint] = (),
    draft: Checkpoint | None = None,
) -> Manifest:
    """Writes the engine folder `out`, all of it or nothing, and returns its manifest.

    The same inputs give the same bytes, but for the plans, in which TensorRT orders some things by chance.
    `choice` is what to compile with, and for which GPUs: see packager.compile.target. `draft` is what
    `config.speculation` names: its engine lies within. Raises ConfigError for a limit the model does not allow,
    TrtpackError for a checkpoint or an adapter that does not fit its model, a segment that departs from its module or
    does not build, an `out` that is not an engine, or a full disk.
    """
    choice = choice or Choice()
    bounds = limits(checkpoint.source, checkpoint.model, config)
    builder = _builder(choice)
    mode: WeightsMode = config.weights or ("embedded" if config.quantization else "inputs")
    listed = weights.plan(checkpoint)
    for adapter in adapters:
        adapter.check(checkpoint.model)
    total = weights.size(listed, config.dtype)
    try:
        with swap.replaced(out, manifest.FILE_NAME, "an engine") as folder:
            _check_space(folder, total)
            _write_tokenizer(checkpoint, folder / "tokenizer")
            beside = lora.write(adapters, folder)
            chosen = precision.write(checkpoint, listed, config, folder, embedded=bool(builder) and mode == "embedded")
            if builder:
                from packager.compile import plans

                plans.write(folder, checkpoint.model, chosen, bounds, choice.compute_capabilities, mode, builder)
            # The public version: CPU and CUDA builds of one release run the same weights.
            ours = torch.__version__.partition("+")[0]
            written = Manifest(
                trtpack_version=version("trtpack"),
                model=Model(
                    architecture=checkpoint.architecture,
                    source=checkpoint.source,
                    revision=checkpoint.revision,
                    config=checkpoint.model,
                ),
                backend=Backend(name=choice.backend, version=builder.version if builder else ours, torch=ours),
                targets=choice.targets,
                weights=mode if builder else "inputs",
                precision=chosen,
                limits=bounds,
                scheduling=config.scheduling,
                generation=generation.defaults(checkpoint.generation, checkpoint.config).model_copy(
                    update={"max_new_tokens": config.default_max_new_tokens}
                ),
                speculation=_speculation(config),
                adapters=beside,
                files=_files(folder),
            )
            (folder / manifest.FILE_NAME).write_text(written.dump(), encoding="utf-8")
            if draft:
                _compile_draft(draft, config, bounds, folder, choice)
    except (OSError, SafetensorError) as error:
        if not swap.is_disk_full(error):
            raise TrtpackError(f"cannot compile {checkpoint.source} into {out}: {error}") from error
        raise _disk_full(out, total) from error
    return written


def _compile_draft(draft: Checkpoint, config: EngineConfig, bounds: Limits, folder: Path, choice: Choice) -> None:
    """As the engine itself, but never quantised: it is small, and every wrong guess costs a step of the large one."""
    longest = min(bounds.max_model_len, draft.model.max_position_embeddings)
    plain = {"quantization": None, "group_size": None, "weights": None, "speculation": None, "max_model_len": longest}
    out = folder / manifest.DRAFT_FOLDER
    compile_engine(draft, config.model_copy(update=plain), out, choice)
    if not same_vocabulary(out / "tokenizer", folder / "tokenizer"):
        raise TrtpackError(
            f"the draft model {draft.source} has another vocabulary, so it cannot guess this model's tokens",
            "Name a smaller model of the same family under engine.speculation.checkpoint.",
        )


def _speculation(config: EngineConfig) -> Speculation | None:
    chosen = config.speculation
    return Speculation(method=chosen.method, tokens=chosen.tokens) if chosen else None


def _builder(choice: Choice) -> "Builder | None":
    """Imported when it is needed: ONNX, its runtime and TensorRT take seconds to load."""
    if choice.backend == "torch":
        return None
    from packager.compile.tensorrt import Builder

    return Builder(choice.backend)


def _write_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    folder.mkdir()
    checkpoint.write_tokenizer(folder)
    json_file.write(folder / "config.json", dict(checkpoint.config))
    if checkpoint.generation:
        json_file.write(folder / "generation_config.json", dict(checkpoint.generation))


def _files(folder: Path) -> dict[str, File]:
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: File(
            size=path.stat().st_size,
            sha256=manifest.sha256(path),
            optional=name.startswith((precision.EMBEDDED, "graphs/")),
        )
        for name, path in paths.items()
    }


def _check_space(folder: Path, total: int) -> None:
    if shutil.disk_usage(folder).free < total:
        raise _disk_full(folder, total)


def _disk_full(out: Path, total: int) -> TrtpackError:
    free = shutil.disk_usage(out.parent).free
    return TrtpackError(
        f"the disk of {out.parent} is full: the engine needs {total / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free",
        "Free some space, or write elsewhere with --out.",
    )
