"""How long the phases of a start took, as the process keeps them."""

import subprocess
import sys
from time import monotonic, sleep

import pytest

from runtime import phases
from runtime.phases import phase


@pytest.fixture(autouse=True)
def none_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "seconds", {})


def test_a_phase_has_all_of_its_own_time_and_adds_up() -> None:
    with phase("load"):
        for _ in range(2):
            with phase("check"):
                sleep(0.002)
    assert list(phases.seconds) == ["check", "load"]
    assert 0.004 <= phases.seconds["check"] <= phases.seconds["load"]


def test_a_function_can_be_a_phase() -> None:
    @phase("check")
    def double(value: int) -> int:
        return 2 * value

    assert [double(2), double(3)] == [4, 6]
    assert phases.seconds["check"] > 0


def test_a_phase_that_fails_is_not_kept() -> None:
    with pytest.raises(ValueError, match="no"), phase("check"):
        raise ValueError("no")
    assert phases.seconds == {}


def test_they_are_told_in_the_order_in_which_they_ended() -> None:
    phases.seconds |= {"imports": 0.614, "port": 0.02}
    assert phases.told() == "imports 0.61 s, port 0.02 s"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a process's age is read from Linux's /proc")
def test_the_age_counts_from_the_start_of_the_process() -> None:
    code = "import time; time.sleep(0.05); from runtime import phases; print(phases.age())"
    started = monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
    tick = 0.01
    assert float(done.stdout) + tick >= 0.05
    assert float(done.stdout) <= monotonic() - started + tick


def test_without_proc_there_is_no_age(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: object, **options: object) -> str:
        raise FileNotFoundError("/proc/self/stat")

    monkeypatch.setattr("pathlib.Path.read_text", missing)
    assert phases.age() is None
