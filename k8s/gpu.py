"""One GPU type: a row of the catalogue in k8s.gpus."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


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
