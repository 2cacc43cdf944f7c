"""The GPU an engine is compiled for, and whether it can run there."""

from packager.config import Accelerator
from packager.errors import ConfigError
from runtime.engine.manifest import DType, Target

# PyPI's wheels of the pinned torch bring CUDA 13, which starts at Turing (docs.nvidia.com/cuda, 13.0 release notes).
_OLDEST = (7, 5)


def target(accelerator: Accelerator | None, dtype: DType) -> Target:
    """What engine.json records; without an accelerator nothing. Raises ConfigError for what that GPU cannot do."""
    if accelerator is None:
        return Target()
    gpu = accelerator.gpu
    if tuple(int(part) for part in gpu.compute_capability.split(".")) < _OLDEST:
        raise ConfigError(
            f"{gpu.name} has compute capability {gpu.compute_capability}; the runtime's CUDA 13 starts at 7.5",
            "Choose a newer GPU, such as T4 or L4.",
        )
    if dtype == "bfloat16" and gpu.bf16_tflops is None:
        raise ConfigError(
            f"{gpu.name} has no bfloat16 arithmetic", "Set engine.dtype to float16, or call with --dtype float16."
        )
    if accelerator.count > 1:
        raise ConfigError(
            f"an engine runs on one GPU in this version, and {accelerator} asks for {accelerator.count}",
            f"Set resources.accelerator to {gpu.truss_names[0] if gpu.truss_names else gpu.name}.",
        )
    return Target(gpu=gpu.name, compute_capability=gpu.compute_capability)
