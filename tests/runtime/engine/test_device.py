# ruff: noqa: N802, since they are NVML's names
"""What the GPU is, as NVML tells it: a stand-in of NVML's answers, and of the library itself for how it is found."""

import ctypes
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from runtime.engine import device
from runtime.engine.device import Device
from runtime.errors import EngineError


@dataclass(eq=False)
class Gpu:
    """A GPU, or a slice of one (`whole`); a GPU with a list of `slices` is in MIG mode, and None is a free place."""

    name: str
    uuid: str
    capability: tuple[int, int] = (8, 0)
    memory: int = 40 << 30
    whole: "Gpu | None" = None
    slices: "list[Gpu | None] | None" = field(default=None)


class Nvml:
    """Answers as NVML does, errors included."""

    def __init__(self, *gpus: Gpu) -> None:
        self.gpus, self.open = gpus, 0

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Gpu:
        parts = [part for gpu in self.gpus for part in (gpu, *(gpu.slices or ())) if part]
        return next((part for part in parts if part.uuid == uuid), None) or self.fail(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetMigMode(self, gpu: Gpu) -> list[int]:
        if gpu.capability < (8, 0):
            self.fail(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [int(gpu.slices is not None)] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: Gpu) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: Gpu, index: int) -> Gpu:
        places = [*(gpu.slices or ()), *[None] * 7]
        return places[index] or self.fail(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, part: Gpu) -> Gpu:
        return part.whole or self.fail(pynvml.NVML_ERROR_INVALID_ARGUMENT)

    def nvmlDeviceGetCudaComputeCapability(self, gpu: Gpu) -> tuple[int, int]:
        if gpu.whole:
            self.fail(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return gpu.capability

    def nvmlDeviceGetName(self, gpu: Gpu) -> str:
        return gpu.name

    def nvmlDeviceGetUUID(self, gpu: Gpu) -> str:
        return gpu.uuid

    def nvmlDeviceGetMemoryInfo(self, gpu: Gpu) -> SimpleNamespace:
        return SimpleNamespace(total=gpu.memory)

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.95.05"

    def fail(self, code: int) -> Gpu:
        raise pynvml.NVMLError(code)


T4 = Gpu("Tesla T4", "GPU-11112222-aaaa", (7, 5), 16 << 30)
L4 = Gpu("NVIDIA L4", "GPU-11113333-bbbb", (8, 9), 24 << 30)
A100 = Gpu("NVIDIA A100-SXM4-40GB", "GPU-44445555-cccc")
SMALL = Gpu("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "MIG-66667777-dddd", memory=5 << 30, whole=A100)
HALF = Gpu("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "MIG-88889999-eeee", memory=20 << 30, whole=A100)
SLICED = Gpu("NVIDIA A100-SXM4-40GB", "GPU-44445555-cccc", slices=[None, SMALL, HALF])


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch):
    """Puts an Nvml in the place of pynvml's functions."""

    def put(*gpus: Gpu, visible: str | None = None) -> Nvml:
        nvml = Nvml(*gpus)
        for name in dir(nvml):
            if name.startswith("nvml"):
                monkeypatch.setattr(pynvml, name, getattr(nvml, name))
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        return nvml

    return put


def test_the_first_gpu(install) -> None:
    nvml = install(T4, L4)
    assert device.probe() == Device("Tesla T4", "7.5", 16 << 30, "580.95.05")
    assert nvml.open == 0


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        ("1", L4),
        (" 1 , 0", L4),
        ("0,1", T4),
        ("GPU-11113333-bbbb", L4),
        ("GPU-11113", L4),
        ("GPU-11112222-aaaa,0", T4),
        ("", None),
        ("-1", None),
        ("2", None),
        ("2,0", None),
        ("GPU-9", None),
        ("none", None),
    ],
)
def test_what_cuda_visible_devices_leaves(visible: str, found: Gpu | None, install) -> None:
    install(T4, L4, visible=visible)
    probed = device.probe()
    assert (probed and probed.name) == (found and found.name)


@pytest.mark.parametrize(
    ("visible", "found"), [(None, SMALL), ("0", SMALL), ("MIG-88889999-eeee", HALF), ("MIG-1", None)]
)
def test_a_slice_has_its_own_memory_and_the_gpus_compute_capability(
    visible: str | None, found: Gpu | None, install
) -> None:
    install(SLICED, visible=visible)
    assert device.probe() == (found and Device(found.name, "8.0", found.memory, "580.95.05"))


def test_a_gpu_in_mig_mode_without_a_slice_is_none(install) -> None:
    install(Gpu("NVIDIA A100-SXM4-40GB", "GPU-4", slices=[]))
    assert device.probe() is None


def test_a_machine_without_gpus(install) -> None:
    install()
    assert device.probe() is None


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_a_machine_without_a_driver(code: int, install, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = install(L4)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: nvml.fail(code))
    assert device.probe() is None


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetMemoryInfo"])
def test_a_driver_that_does_not_answer_is_no_missing_gpu(
    function: str, install, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = install(L4)
    monkeypatch.setattr(pynvml, function, lambda *_: nvml.fail(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH))
    with pytest.raises(EngineError, match=r"driver .* does not answer \(RM has detected an NVML/RM version mismatch"):
        device.probe()
    assert nvml.open == 0


LIBRARY = """
#include <string.h>
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **gpu) { *gpu = gpu; return 0; }
int nvmlDeviceGetMigMode(void *gpu, unsigned *now, unsigned *next) { return 3; }
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *slice, void **gpu) { return 2; }
int nvmlDeviceGetCudaComputeCapability(void *gpu, int *major, int *minor) { *major = 8; *minor = 9; return 0; }
int nvmlDeviceGetName(void *gpu, char *name, unsigned size) { strcpy(name, "NVIDIA L4"); return 0; }
int nvmlDeviceGetMemoryInfo(void *gpu, unsigned long long *memory) { memory[0] = 24152899584ull; return 0; }
int nvmlSystemGetDriverVersion(char *version, unsigned size) { strcpy(version, "580.95.05"); return 0; }
"""


def test_the_driver_is_found_where_gke_mounts_it(tmp_path: Path) -> None:
    """With the real pynvml in a process of its own: it asks the loader for libnvidia-ml.so.1, and has no other way."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make a libnvidia-ml.so.1")
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
        pytest.skip("the loader finds this machine's own driver")
    except OSError:
        pass
    library = tmp_path / "libnvidia-ml.so.1"
    source = tmp_path / "nvml.c"
    source.write_text(LIBRARY)
    subprocess.run([compiler, "-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-o", library, source], check=True)
    program = (
        "import pathlib, sys\nfrom runtime.engine import device\n"
        "device._LIBRARY = pathlib.Path(sys.argv[1])\nprint(device.probe())"
    )
    done = subprocess.run([sys.executable, "-c", program, library], capture_output=True, text=True, check=True)
    assert done.stdout == f"{Device('NVIDIA L4', '8.9', 24152899584, '580.95.05')}\n"
