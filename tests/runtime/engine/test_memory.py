from pathlib import Path

import pytest
import torch

from runtime.engine import cgroup as control_group
from runtime.engine import memory

CPU = torch.device("cpu")
GIB = 2**30


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(control_group, "ROOT", tmp_path)
    monkeypatch.setattr(memory, "_host_available", lambda: 64 * GIB)
    return tmp_path


def write(folder: Path, **files: object) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_the_hosts_own_figure_is_plausible() -> None:
    assert 0 < memory.available_bytes(CPU) < 2**50


def test_without_a_container_it_is_the_hosts(cgroup: Path) -> None:
    assert memory.available_bytes(CPU) == 64 * GIB


def test_a_containers_limit_less_what_it_uses_but_not_its_page_cache(cgroup: Path) -> None:
    write(cgroup, memory__max=8 * GIB, memory__current=3 * GIB, memory__stat=f"anon {GIB}\nfile {2 * GIB}")
    assert memory.available_bytes(CPU) == 7 * GIB


def test_the_same_under_cgroup_v1(cgroup: Path) -> None:
    write(
        cgroup / "memory",
        memory__limit_in_bytes=4 * GIB,
        memory__usage_in_bytes=3 * GIB,
        memory__stat=f"cache {GIB}\nrss {2 * GIB}",
    )
    assert memory.available_bytes(CPU) == 2 * GIB


def test_a_container_without_a_limit_has_the_hosts(cgroup: Path) -> None:
    write(cgroup, memory__max="max", memory__current=3 * GIB, memory__stat="file 0")
    assert memory.available_bytes(CPU) == 64 * GIB


def test_a_container_over_its_limit_has_nothing(cgroup: Path) -> None:
    write(cgroup, memory__max=GIB, memory__current=2 * GIB, memory__stat="file 0")
    assert memory.available_bytes(CPU) == 0
