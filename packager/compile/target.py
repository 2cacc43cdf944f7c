"""Which backend compiles for which GPU, and what a GPU cannot run: refused by name before any work starts."""

from collections.abc import Sequence
from dataclasses import dataclass

from k8s.gpus import Gpu
from packager.config import Accelerator, EngineConfig
from packager.errors import ConfigError, TrtpackError
from runtime.engine.device import probe
from runtime.engine.manifest import BackendName, DType, Scheme, Target

# PyPI's wheels of the pinned torch bring CUDA 13, which starts at Turing (docs.nvidia.com/cuda, 13.0 release notes).
_OLDEST = (7, 5)
# The compute capabilities in TensorRT-RTX's support matrix; 8.0 has a build target but no row, hence by request only
# (docs.nvidia.com/deeplearning/tensorrt-rtx, support matrix 1.5).
_RTX = {"7.5", "8.6", "8.9", "12.0"}
_RTX_BY_REQUEST = {"8.0"}
# The lowest compute capability of each scheme there: "INT8-WoQ, INT4-WoQ GEMM 8.6+, FP8 8.9+"; Turing has float16
# alone. 8.0 and 8.6 have the same integer units. 8-bit activations have no row: the builder takes them from 8.0 up.
_SCHEMES: dict[Scheme, tuple[int, int]] = {"int8": (8, 0), "int4": (8, 0), "smoothquant": (8, 0), "fp8": (8, 9)}


@dataclass(frozen=True)
class Choice:
    """What to compile with, and for which GPUs; none: the engine runs anywhere its backend does."""

    backend: BackendName = "torch"
    targets: tuple[Target, ...] = ()

    @property
    def compute_capabilities(self) -> list[str]:
        """Each once: GPUs of one capability share their plans."""
        return list(dict.fromkeys(target.compute_capability for target in self.targets))


def choose(accelerators: Sequence[Accelerator], config: EngineConfig, *, elsewhere: bool = False) -> Choice:
    """Raises ConfigError for what a GPU cannot run, TrtpackError for what cannot be compiled on this machine.

    `elsewhere`: it is compiled on another, which has the GPU.
    """
    gpus = [accelerator.gpu for accelerator in accelerators]
    if config.adapters and config.backend not in ("auto", "torch"):
        raise ConfigError(
            f"engine.adapters: plans of the {config.backend} backend have no place for LoRA adapters",
            "Leave out engine.backend or choose torch, or merge an adapter into its checkpoint.",
        )
    for accelerator in accelerators:
        _check_count(accelerator)
    if not gpus:
        return Choice(_without_gpu(config))
    backends = {gpu.name: _backend(gpu, config) for gpu in gpus}
    if len(set(backends.values())) > 1:
        told = ", ".join(f"{name}: {backend}" for name, backend in backends.items())
        raise ConfigError(
            f"one engine has one backend, and these GPUs want several ({told})",
            "Compile them into engines of their own with --out, or choose one for all with --backend torch.",
        )
    backend = backends[gpus[0].name]
    for gpu in gpus:
        if reason := refusal(gpu, config.dtype, config.quantization, backend):
            raise ConfigError(reason, _mend(gpu, config))
    if backend == "tensorrt" and not elsewhere:
        _check_present(gpus)
    return Choice(backend, tuple(Target(gpu=gpu.name, compute_capability=gpu.compute_capability) for gpu in gpus))


def automatic(gpu: Gpu) -> BackendName:
    """TensorRT-RTX where it is tested, TensorRT elsewhere; torch where neither runs."""
    if gpu.compute_capability in _RTX:
        return "tensorrt-rtx"
    return "tensorrt" if _version(gpu) >= _OLDEST else "torch"


def refusal(gpu: Gpu, dtype: DType, quantization: Scheme | None, backend: BackendName | None = None) -> str | None:
    """Why that GPU cannot run such an engine, or None; `backend` None is the automatic one."""
    backend, has = backend or automatic(gpu), f"{gpu.name} has compute capability {gpu.compute_capability}"
    if _version(gpu) < _OLDEST:
        return f"{has}; the runtime's CUDA 13 starts at 7.5"
    if dtype == "bfloat16" and gpu.bf16_tflops is None:
        return f"{gpu.name} has no bfloat16 arithmetic"
    if backend == "tensorrt-rtx" and gpu.compute_capability not in _RTX | _RTX_BY_REQUEST:
        return f"{has}, on which TensorRT-RTX does not run"
    if quantization and _version(gpu) < _SCHEMES[quantization]:
        return f"{has}; {quantization} starts at {'.'.join(map(str, _SCHEMES[quantization]))}"
    return None


def notes(choice: Choice, config: EngineConfig) -> list[str]:
    """What the user should know of a choice that is allowed, but on no list of NVIDIA's."""
    told = []
    if choice.targets and config.adapters and config.backend == "auto":
        told.append("engine.adapters: compiled for the torch backend; plans have no place for LoRA adapters")
    if choice.backend == "tensorrt-rtx":
        told += [
            f"{target.gpu}: its plans build, but {target.compute_capability} is not in TensorRT-RTX's support matrix"
            for target in choice.targets
            if target.compute_capability in _RTX_BY_REQUEST
        ]
        if config.quantization == "smoothquant":
            told.append("smoothquant: its plans build, but 8-bit activations are not in TensorRT-RTX's support matrix")
    return told


def _backend(gpu: Gpu, config: EngineConfig) -> BackendName:
    if config.backend != "auto":
        return config.backend
    return "torch" if config.adapters else automatic(gpu)


def _without_gpu(config: EngineConfig) -> BackendName:
    if config.backend not in ("auto", "torch"):
        raise ConfigError(
            f"the {config.backend} backend compiles for a GPU, and none is named",
            "Set resources.accelerator in config.yaml, or call with --gpu L4.",
        )
    return "torch"


def _check_count(accelerator: Accelerator) -> None:
    if accelerator.count > 1:
        gpu = accelerator.gpu
        raise ConfigError(
            f"an engine runs on one GPU in this version, and {accelerator} asks for {accelerator.count}",
            f"Set resources.accelerator to {gpu.truss_names[0] if gpu.truss_names else gpu.name}.",
        )


def _check_present(gpus: Sequence[Gpu]) -> None:
    """TensorRT times its kernels on the GPU it compiles for, so that one must be here."""
    device = probe()
    for gpu in gpus:
        if device is None or device.compute_capability != gpu.compute_capability:
            found = f"has {device.name} ({device.compute_capability})" if device else "has no NVIDIA GPU"
            other = ", or --backend tensorrt-rtx (builds here; untested by NVIDIA on this GPU)"
            raise TrtpackError(
                f"the tensorrt backend compiles on the GPU it is for: {gpu.name} ({gpu.compute_capability}); "
                f"this machine {found}",
                "Compile in a Kubernetes Job with that GPU, by --on-cluster, or on a machine that has it; or here with "
                f"--backend torch{other if gpu.compute_capability in _RTX_BY_REQUEST else ''}.",
            )


def _mend(gpu: Gpu, config: EngineConfig) -> str:
    if _version(gpu) < _OLDEST:
        return "Choose a newer GPU, such as T4 or L4."
    if config.dtype == "bfloat16" and gpu.bf16_tflops is None:
        return "Set engine.dtype to float16, or call with --dtype float16."
    if config.backend == "tensorrt-rtx" and gpu.compute_capability not in _RTX | _RTX_BY_REQUEST:
        return "Leave the backend to the GPU with --backend auto, or choose torch."
    if config.quantization == "fp8" and _version(gpu) >= _SCHEMES["int8"]:
        return "Choose int8 or int4 for this GPU; fp8 needs an L4, H100 or later."
    return "Leave out the quantisation, or choose an L4 or a later GPU."


def _version(gpu: Gpu) -> tuple[int, int]:
    major, minor = gpu.compute_capability.split(".")
    return int(major), int(minor)
