"""Compiling for the torch backend: weights in the runtime's layout, tokenizer, engine.json."""

import shutil
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError

from packager import progress, swap
from packager.checkpoint import json_file
from packager.checkpoint.base import Checkpoint
from packager.compile import generation, weights
from packager.config.engine import EngineConfig
from packager.errors import ConfigError, TrtpackError
from runtime.engine import manifest
from runtime.engine.manifest import Backend, File, Limits, Manifest, Model, Precision, Target


def compile_engine(checkpoint: Checkpoint, config: EngineConfig, out: Path, target: Target | None = None) -> Manifest:
    """Writes the engine folder `out`, all of it or nothing, and returns its manifest; the same inputs, the same bytes.

    `target` is the GPU it is meant for, on record only: the torch backend runs anywhere. Raises ConfigError for a
    limit the model does not allow, TrtpackError for a checkpoint that does not fit its model, an `out` that is not
    an engine, or a full disk.
    """
    limits = _limits(checkpoint, config)
    plan = weights.plan(checkpoint)
    total = weights.size(plan, config.dtype)
    try:
        with swap.replaced(out, manifest.FILE_NAME, "an engine") as folder:
            _check_space(folder, total)
            _write_tokenizer(checkpoint, folder / "tokenizer")
            (folder / "weights").mkdir()
            with progress.task(f"Writing weights in {config.dtype}", total) as advance:
                weights.write(checkpoint, plan, config.dtype, folder / "weights", advance)
            written = Manifest(
                trtpack_version=version("trtpack"),
                model=Model(
                    architecture=checkpoint.architecture,
                    source=checkpoint.source,
                    revision=checkpoint.revision,
                    config=checkpoint.model,
                ),
                # The public version: CPU and CUDA builds of one release run the same weights.
                backend=Backend(name="torch", version=torch.__version__.partition("+")[0]),
                target=target or Target(),
                precision=Precision(dtype=config.dtype),
                limits=limits,
                generation=generation.defaults(checkpoint.generation, checkpoint.config),
                files=_files(folder),
            )
            (folder / manifest.FILE_NAME).write_text(written.dump(), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        if not swap.is_disk_full(error):
            raise TrtpackError(f"cannot compile {checkpoint.source} into {out}: {error}") from error
        raise _disk_full(out, total) from error
    return written


def _limits(checkpoint: Checkpoint, config: EngineConfig) -> Limits:
    longest = checkpoint.model.max_position_embeddings
    wanted = config.max_model_len or longest
    if wanted > longest:
        raise ConfigError(
            f"engine.max_model_len is {wanted}, but {checkpoint.source} was trained for {longest} tokens",
            f"Set max_model_len to {longest} or less, or leave it out.",
        )
    return Limits(max_model_len=wanted, max_batch_size=config.max_batch_size, max_num_tokens=config.max_num_tokens)


def _write_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    folder.mkdir()
    checkpoint.write_tokenizer(folder)
    json_file.write(folder / "config.json", dict(checkpoint.config))
    if checkpoint.generation:
        json_file.write(folder / "generation_config.json", dict(checkpoint.generation))


def _files(folder: Path) -> dict[str, File]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): File(size=path.stat().st_size, sha256=manifest.sha256(path))
        for path in paths
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
