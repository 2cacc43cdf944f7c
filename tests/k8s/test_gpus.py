"""The GPU table agrees with itself and with the names that others use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8s.gpus import GPUS, Gpu, UnknownGpuError, counts, find

# Truss 0.18 knows these accelerators; a name we claim must be one of them.
TRUSS = {
    *("B10", "T4", "L4", "A10G", "V100", "A100", "A100_40GB", "H100", "H200", "H100_40GB"),
    *("B200", "L40S", "RTX_PRO_6000", "B300", "GB300"),
}
every_gpu = pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)


def capability(gpu: Gpu) -> tuple[int, ...]:
    return tuple(map(int, gpu.compute_capability.split(".")))


def test_every_name_means_one_gpu() -> None:
    names = [name.lower() for gpu in GPUS for name in (gpu.name, *gpu.truss_names)]
    assert len(names) == len(set(names))


@every_gpu
def test_is_found_by_its_own_its_gke_and_its_truss_names(gpu: Gpu) -> None:
    assert set(gpu.truss_names) <= TRUSS
    for name in filter(None, (gpu.name, gpu.gke_label, *gpu.truss_names)):
        assert find(name) is find(name.upper()) is find(f" {name.lower()} ") is gpu


@every_gpu
def test_gke_label_is_the_name_where_gke_offers_it(gpu: Gpu) -> None:
    assert gpu.gke_label in (None, gpu.name)


def test_gfd_product_as_clusters_show_it() -> None:
    shown = {gpu.name: gpu.gfd_product for gpu in GPUS}
    assert shown["nvidia-tesla-t4"] == "Tesla-T4"
    assert shown["nvidia-l4"] == "NVIDIA-L4"
    assert shown["nvidia-h100-80gb"] == "NVIDIA-H100-80GB-HBM3"
    assert shown["nvidia-rtx-pro-6000"] == "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition"


@every_gpu
def test_gfd_product_is_the_nvml_name_joined_by_dashes(gpu: Gpu) -> None:
    assert gpu.gfd_product == "-".join(gpu.nvml_name.split())


@every_gpu
def test_rates_follow_the_architecture(gpu: Gpu) -> None:
    """Tensor cores have BF16 from Ampere (8.0) on and FP8, at twice the rate, from Ada (8.9) on."""
    assert (gpu.bf16_tflops is not None) == (capability(gpu) >= (8, 0))
    assert (gpu.fp8_tflops is not None) == (capability(gpu) >= (8, 9))
    if gpu.bf16_tflops and gpu.fp8_tflops:
        assert gpu.fp8_tflops == pytest.approx(2 * gpu.bf16_tflops, rel=0.02)


@every_gpu
def test_driver_follows_the_newest_cuda_that_supports_the_gpu(gpu: Gpu) -> None:
    assert gpu.min_driver == (580 if capability(gpu) >= (7, 5) else 525)


@every_gpu
def test_figures_are_plausible_and_sourced(gpu: Gpu) -> None:
    assert 8 <= gpu.memory_gb <= 288
    assert 100 <= gpu.bandwidth_gb_s <= 8000
    assert gpu.machine_types
    assert gpu.source
    assert gpu.arch == ("arm64" if gpu.name == "nvidia-gb200" else "amd64")


@every_gpu
def test_what_nvml_reports_is_the_nominal_memory_within_a_tenth(gpu: Gpu) -> None:
    if gpu.memory_mib is not None:
        assert gpu.memory_mib * 2**20 == pytest.approx(gpu.memory_gb * 1e9, rel=0.1)
        assert "nvidia-gpu-memory-capacity" in gpu.source


def test_truss_a100_is_the_80_gb_one() -> None:
    assert (find("A100").memory_gb, find("A100_40GB").memory_gb) == (80, 40)


@every_gpu
def test_counts_fill_a_machine(gpu: Gpu) -> None:
    sizes = {size for offered in gpu.machine_types.values() for size in offered}
    assert counts(gpu)[0] == 1
    assert counts(gpu)[-1] == max(sizes)
    assert set(counts(gpu)) >= sizes
    assert all(any(size % count == 0 for size in sizes) for count in counts(gpu))


def test_counts_of_known_machines() -> None:
    assert counts(find("nvidia-l4")) == (1, 2, 4, 8)
    assert counts(find("nvidia-tesla-a100")) == (1, 2, 4, 8, 16)
    assert counts(find("nvidia-gb200")) == (1, 2, 4)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("GB200", "nvidia-gb200"),
        ("L4S", "L40S"),
        ("nvidia-tesla-l4", "nvidia-tesla-t4"),
        ("a100-80gb", "nvidia-a100-80gb"),
    ],
)
def test_unknown_name_names_the_nearest_and_lists_all(typed: str, meant: str) -> None:
    with pytest.raises(UnknownGpuError, match=f"unknown GPU '{typed}' .did you mean {meant}\\?") as error:
        find(typed)
    assert all(gpu.name in str(error.value) for gpu in GPUS)


@given(st.text())
def test_any_text_is_a_gpu_or_a_clear_error(name: str) -> None:
    try:
        assert find(name) in GPUS
    except UnknownGpuError as error:
        assert str(error).startswith(f"unknown GPU {name!r}")
