"""Threads follow the cores that the container was given."""

import os
from pathlib import Path

import pytest
import torch

from runtime.engine import cgroup, cores


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight CPUs, two of each core, and no container; its control group is in the folder that is returned."""
    for cpu in range(8):
        topology = tmp_path / f"cpus/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    (tmp_path / "cpu").mkdir()
    monkeypatch.setattr(cores, "_CPUS", tmp_path / "cpus")
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    return tmp_path


def test_hyperthreads_count_once(host: Path) -> None:
    assert cores.given() == 4


def test_a_host_that_does_not_tell_has_a_core_for_each_cpu(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_CPUS", host / "nowhere")
    assert cores.given() == 8


def test_only_those_that_the_process_may_run_on(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 2, 6})
    assert cores.given() == 2


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max 100000", 4), ("300000 100000", 3), ("250000 100000", 2), ("50000 100000", 1), ("1600000 100000", 4)],
)
def test_version_2_limits(limit: str, expected: int, host: Path) -> None:
    (host / "cpu.max").write_text(limit + "\n")
    assert cores.given() == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 4), ("200000", 2), ("10000", 1)])
def test_version_1_limits(quota: str, expected: int, host: Path) -> None:
    (host / "cpu/cpu.cfs_quota_us").write_text(quota + "\n")
    (host / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert cores.given() == expected


@pytest.mark.parametrize(("variable", "expected"), [("", [4]), ("3", [])])
def test_a_number_that_was_given_stands(
    variable: str, expected: list[int], host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    cores.use_given()
    assert chosen == expected
