"""The GPU catalogue: one row per GPU type, which compile, plan, image, manifests and start-up check all look up.

Memory, bandwidth and rates are the nominal figures of NVIDIA's datasheets; rates are dense (no sparsity).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

_N1 = {"n1-standard": (1, 2, 4)}
_EC2_SIZES = {1: ("", "2", "4", "8", "16"), 4: ("12", "24"), 8: ("48",)}
_GCE = "docs.cloud.google.com/compute/docs/gpus"
_XPK = "AI-Hypercomputer/xpk system_characteristics.py"
_SAMPLES = "GoogleCloudPlatform/kubernetes-engine-samples"
# What nvidia-smi shows of each, in MiB.
_NVML = "thundergolfer.com/blog/nvidia-gpu-memory-capacity"
_EC2 = "docs.aws.amazon.com/ec2 accelerated-computing instances"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU type. `name` is its GKE label value, or our own slug where GKE does not offer it.

    `machine_types` maps a machine type to the GPU counts it can have. `min_driver` is the oldest NVIDIA driver branch
    that runs the newest CUDA major with support for this GPU (CUDA 13 needs 580 and compute capability 7.5;
    CUDA 12 needs 525). `bf16_tflops` and `fp8_tflops` are None where the hardware lacks the type. `memory_mib` is what
    NVML reports, None where nobody was found to have published it. `source` is where the row's figures are from.
    """

    name: str
    gke_label: str | None
    truss_names: tuple[str, ...] = ()
    nvml_name: str
    compute_capability: str
    memory_gb: int
    memory_mib: int | None = None
    bandwidth_gb_s: int
    bf16_tflops: float | None = None
    fp8_tflops: float | None = None
    machine_types: Mapping[str, tuple[int, ...]] = field(hash=False)
    arch: Literal["amd64", "arm64"] = "amd64"
    min_driver: int = 580
    source: str

    @property
    def gfd_product(self) -> str:
        """The value of `nvidia.com/gpu.product` that GPU Feature Discovery makes of the NVML name.

        Source: NVIDIA/k8s-device-plugin, internal/lm/resource.go.
        """
        return "-".join(self.nvml_name.split())


class UnknownGpuError(ValueError):
    """No GPU of the catalogue has this name."""

    def __init__(self, name: str) -> None:
        near = _nearest(name)
        names = ", ".join(" = ".join((gpu.name, *gpu.truss_names)) for gpu in GPUS)
        guess = f" (did you mean {near}?)" if near else ""
        super().__init__(f"unknown GPU {name!r}{guess}; known: {names}")


def find(name: str) -> Gpu:
    """The GPU with this GKE label, Truss name or own name, in any case. Raises UnknownGpuError."""
    try:
        return _BY_NAME[name.strip().lower()]
    except KeyError:
        raise UnknownGpuError(name) from None


def counts(gpu: Gpu) -> tuple[int, ...]:
    """The GPU counts a pod may ask for, ascending: those that fill a machine of this GPU with equal pods.

    GKE Autopilot is stricter: there a pod has a machine for itself and asks for exactly one of `machine_types`' counts.
    """
    sizes = {size for offered in gpu.machine_types.values() for size in offered}
    return tuple(count for count in range(1, max(sizes) + 1) if any(size % count == 0 for size in sizes))


def _ec2(family: str) -> dict[str, tuple[int, ...]]:
    """The sizes that the families g5 and g6e have in common."""
    return {f"{family}.{size}xlarge": (gpus,) for gpus, sizes in _EC2_SIZES.items() for size in sizes}


GPUS: tuple[Gpu, ...] = (
    Gpu(
        name="nvidia-tesla-p4",
        gke_label="nvidia-tesla-p4",
        nvml_name="Tesla P4",
        compute_capability="6.1",
        memory_gb=8,
        bandwidth_gb_s=192,
        machine_types=_N1,
        min_driver=525,
        source=f"{_GCE}; Tesla P4 datasheet",
    ),
    Gpu(
        name="nvidia-tesla-p100",
        gke_label="nvidia-tesla-p100",
        nvml_name="Tesla P100-PCIE-16GB",
        compute_capability="6.0",
        memory_gb=16,
        bandwidth_gb_s=732,
        machine_types=_N1,
        min_driver=525,
        source=f"{_GCE}; Tesla P100 PCIe datasheet",
    ),
    Gpu(
        name="nvidia-tesla-v100",
        gke_label="nvidia-tesla-v100",
        truss_names=("V100",),
        nvml_name="Tesla V100-SXM2-16GB",
        compute_capability="7.0",
        memory_gb=16,
        bandwidth_gb_s=900,
        machine_types={"n1-standard": (1, 2, 4, 8)},
        min_driver=525,
        source=f"{_GCE}; V100 datasheet",
    ),
    Gpu(
        name="nvidia-tesla-t4",
        gke_label="nvidia-tesla-t4",
        truss_names=("T4",),
        nvml_name="Tesla T4",
        compute_capability="7.5",
        memory_gb=16,
        memory_mib=15360,
        bandwidth_gb_s=320,
        machine_types=_N1,
        source=f"{_GCE}; T4 datasheet; GPU feature discovery README; {_NVML}",
    ),
    Gpu(
        name="nvidia-tesla-a100",
        gke_label="nvidia-tesla-a100",
        truss_names=("A100_40GB",),
        nvml_name="NVIDIA A100-SXM4-40GB",
        compute_capability="8.0",
        memory_gb=40,
        memory_mib=40960,
        bandwidth_gb_s=1555,
        bf16_tflops=312,
        machine_types={
            "a2-highgpu-1g": (1,),
            "a2-highgpu-2g": (2,),
            "a2-highgpu-4g": (4,),
            "a2-highgpu-8g": (8,),
            "a2-megagpu-16g": (16,),
        },
        source=f"{_XPK}; A100 datasheet; {_NVML}",
    ),
    Gpu(
        name="nvidia-a100-80gb",
        gke_label="nvidia-a100-80gb",
        truss_names=("A100",),
        nvml_name="NVIDIA A100-SXM4-80GB",
        compute_capability="8.0",
        memory_gb=80,
        memory_mib=81920,
        bandwidth_gb_s=2039,
        bf16_tflops=312,
        machine_types={"a2-ultragpu-1g": (1,), "a2-ultragpu-2g": (2,), "a2-ultragpu-4g": (4,), "a2-ultragpu-8g": (8,)},
        source=f"{_SAMPLES} vllm-7b-it-a100-80gb.yaml; A100 datasheet; {_NVML}",
    ),
    Gpu(
        name="nvidia-l4",
        gke_label="nvidia-l4",
        truss_names=("L4",),
        nvml_name="NVIDIA L4",
        compute_capability="8.9",
        memory_gb=24,
        memory_mib=23034,
        bandwidth_gb_s=300,
        bf16_tflops=121,
        fp8_tflops=242,
        machine_types={
            "g2-standard-4": (1,),
            "g2-standard-8": (1,),
            "g2-standard-12": (1,),
            "g2-standard-16": (1,),
            "g2-standard-32": (1,),
            "g2-standard-24": (2,),
            "g2-standard-48": (4,),
            "g2-standard-96": (8,),
        },
        source=f"{_XPK}; L4 datasheet; {_NVML}",
    ),
    Gpu(
        name="nvidia-h100-80gb",
        gke_label="nvidia-h100-80gb",
        truss_names=("H100",),
        nvml_name="NVIDIA H100 80GB HBM3",
        compute_capability="9.0",
        memory_gb=80,
        memory_mib=81559,
        bandwidth_gb_s=3350,
        bf16_tflops=989,
        fp8_tflops=1979,
        machine_types={"a3-highgpu-1g": (1,), "a3-highgpu-2g": (2,), "a3-highgpu-4g": (4,), "a3-highgpu-8g": (8,)},
        source=f"{_XPK}; H100 SXM datasheet; {_NVML}",
    ),
    Gpu(
        name="nvidia-h100-mega-80gb",
        gke_label="nvidia-h100-mega-80gb",
        nvml_name="NVIDIA H100 80GB HBM3",
        compute_capability="9.0",
        memory_gb=80,
        memory_mib=81559,
        bandwidth_gb_s=3350,
        bf16_tflops=989,
        fp8_tflops=1979,
        machine_types={"a3-megagpu-8g": (8,)},
        source=f"{_XPK}; H100 SXM datasheet; {_NVML}",
    ),
    Gpu(
        name="nvidia-h200-141gb",
        gke_label="nvidia-h200-141gb",
        truss_names=("H200",),
        nvml_name="NVIDIA H200",
        compute_capability="9.0",
        memory_gb=141,
        memory_mib=143771,
        bandwidth_gb_s=4800,
        bf16_tflops=989,
        fp8_tflops=1979,
        machine_types={"a3-ultragpu-8g": (8,)},
        source=f"{_XPK}; H200 SXM datasheet; {_NVML}",
    ),
    Gpu(
        name="nvidia-b200",
        gke_label="nvidia-b200",
        truss_names=("B200",),
        nvml_name="NVIDIA B200",
        compute_capability="10.0",
        memory_gb=180,
        bandwidth_gb_s=8000,
        bf16_tflops=2250,
        fp8_tflops=4500,
        machine_types={"a4-highgpu-8g": (8,)},
        source=f"{_XPK}; HGX B200 datasheet",
    ),
    Gpu(
        name="nvidia-gb200",
        gke_label="nvidia-gb200",
        nvml_name="NVIDIA GB200",
        compute_capability="10.0",
        memory_gb=186,
        bandwidth_gb_s=8000,
        bf16_tflops=2500,
        fp8_tflops=5000,
        machine_types={"a4x-highgpu-4g": (4,)},
        arch="arm64",
        source=f"{_XPK}; GB200 NVL72 datasheet",
    ),
    Gpu(
        name="nvidia-rtx-pro-6000",
        gke_label="nvidia-rtx-pro-6000",
        truss_names=("RTX_PRO_6000",),
        nvml_name="NVIDIA RTX PRO 6000 Blackwell Server Edition",
        compute_capability="12.0",
        memory_gb=96,
        bandwidth_gb_s=1597,
        bf16_tflops=500,
        fp8_tflops=1000,
        machine_types={
            "g4-standard-48": (1,),
            "g4-standard-96": (2,),
            "g4-standard-192": (4,),
            "g4-standard-384": (8,),
        },
        source="GoogleCloudPlatform/accelerated-platforms compute classes; RTX PRO 6000 Blackwell datasheet",
    ),
    Gpu(
        name="nvidia-a10g",
        gke_label=None,
        truss_names=("A10G",),
        nvml_name="NVIDIA A10G",
        compute_capability="8.6",
        memory_gb=24,
        bandwidth_gb_s=600,
        bf16_tflops=70,
        machine_types=_ec2("g5"),
        source=f"{_EC2} (G5); A10G datasheet",
    ),
    Gpu(
        name="nvidia-l40s",
        gke_label=None,
        truss_names=("L40S",),
        nvml_name="NVIDIA L40S",
        compute_capability="8.9",
        memory_gb=48,
        memory_mib=46068,
        bandwidth_gb_s=864,
        bf16_tflops=362,
        fp8_tflops=733,
        machine_types=_ec2("g6e"),
        source=f"{_EC2} (G6e); L40S datasheet; {_NVML}",
    ),
)

_BY_NAME = {alias.lower(): gpu for gpu in GPUS for alias in (gpu.name, *gpu.truss_names)}


def _nearest(name: str) -> str | None:
    """The name that contains what was typed, else the one spelt most like it."""
    typed = name.strip().lower()
    spellings = {alias.lower(): alias for gpu in GPUS for alias in (gpu.name, *gpu.truss_names)}
    near = [key for key in spellings if f"-{typed}-" in f"-{key}-"] or get_close_matches(
        typed, spellings, n=1, cutoff=0.5
    )
    return spellings[near[0]] if near else None
