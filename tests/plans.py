"""An engine with real plans of TensorRT-RTX, each of one matrix product: what its contract is tested with."""

import os
from functools import cache
from pathlib import Path
from typing import Any

import tensorrt_rtx

from runtime.engine import manifest, plan
from runtime.engine.manifest import Backend, File, Limits, Manifest, Model, Precision, Target
from runtime.model.config import ModelConfig, RopeConfig

VERSION = tensorrt_rtx.__version__
GPUS = {"7.5": "nvidia-tesla-t4", "8.9": "nvidia-l4", "9.0": "nvidia-h100-80gb", "12.0": "nvidia-rtx-pro-6000"}
CONFIG = ModelConfig(
    hidden_size=64,
    intermediate_size=96,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    vocab_size=320,
    rms_norm_eps=1e-5,
    max_position_embeddings=512,
    rope=RopeConfig(),
    windows=(None, None, None),
)


@cache
def build(*compute_capabilities: str) -> bytes:
    """A plan for these; for none, the builder's default."""
    builder = tensorrt_rtx.Builder(tensorrt_rtx.Logger(tensorrt_rtx.Logger.ERROR))
    network = builder.create_network(0)
    left, right = (network.add_input(name, tensorrt_rtx.float16, (4, 4)) for name in "ab")
    no = tensorrt_rtx.MatrixOperation.NONE
    network.mark_output(network.add_matrix_multiply(left, no, right, no).get_output(0))
    config = builder.create_builder_config()
    if compute_capabilities:
        config.num_compute_capabilities = len(compute_capabilities)
    for index, name in enumerate(compute_capabilities):
        sm = getattr(tensorrt_rtx.ComputeCapability, f"SM{name.replace('.', '')}")
        config.set_compute_capability(sm, index)
    return bytes(builder.build_serialized_network(network, config))


def make_engine(folder: Path, *compute_capabilities: str, **fields: Any) -> Manifest:
    """Writes an engine folder for these targets, with random bytes for weights; `fields` are the manifest's."""
    backend = fields.pop("backend", "tensorrt-rtx")
    version = VERSION if backend == "tensorrt-rtx" else "2.13.0" if backend == "torch" else "11.4.1.5"
    made = Manifest(
        **{
            "trtpack_version": "0.1.0",
            "model": Model(architecture="LlamaForCausalLM", source="hf://org/[tiny]", revision="abc", config=CONFIG),
            "backend": Backend(name=backend, version=version, torch="2.13.0"),
            "targets": tuple(Target(gpu=GPUS[c], compute_capability=c) for c in compute_capabilities),
            "precision": Precision(dtype="float16"),
            "limits": Limits(max_model_len=512, max_batch_size=4, max_num_tokens=64),
            "files": {},
            **fields,
        }
    )
    write(folder, "weights/model-00001.safetensors", os.urandom(4096))
    write(folder, "tokenizer/tokenizer.json", b"{}")
    for name, capability in plan.paths(made):
        write(folder, name, build(capability) if backend == "tensorrt-rtx" else b"ftrt" + bytes(100))
    return record(folder, made)


def write(folder: Path, name: str, content: bytes) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def record(folder: Path, made: Manifest) -> Manifest:
    """Writes engine.json with every file as it now is, so that its checksums agree."""
    files = {
        path.relative_to(folder).as_posix(): File(size=path.stat().st_size, sha256=manifest.sha256(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != manifest.FILE_NAME
    }
    made = made.model_copy(update={"files": files})
    (folder / manifest.FILE_NAME).write_text(made.dump())
    return made
