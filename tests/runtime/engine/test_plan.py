"""Headers of real plans, built here by TensorRT-RTX for GPUs that are not here."""

from pathlib import Path

import pytest

from runtime.engine import plan
from runtime.engine.manifest import Manifest
from tests.plans import CONFIG, VERSION, build, make_engine, record, write


def header(folder: Path, content: bytes) -> plan.Header | None:
    (folder / "a.plan").write_bytes(content)
    return plan.read(folder / "a.plan")


@pytest.mark.parametrize(
    "capabilities",
    [("7.5",), ("8.0",), ("8.6",), ("8.9",), ("12.0",), ("12.1",), ("8.9", "12.0"), ("7.5", "8.6", "12.1")],
)
def test_a_plan_tells_what_it_was_built_for(capabilities: tuple[str, ...], tmp_path: Path) -> None:
    content = build(*capabilities)
    assert header(tmp_path, content) == plan.Header(VERSION, capabilities, later=False, size=len(content))


def test_a_plan_without_a_target_runs_on_all_from_ampere(tmp_path: Path) -> None:
    found = header(tmp_path, build())
    assert found and found.capabilities == ("8.0", "8.6", "8.9", "12.0", "12.1")
    assert found.later


def test_what_is_not_known_is_not_guessed(tmp_path: Path) -> None:
    content = build("8.9")
    for other in (b"", content[:63], b"ftrt" + content[4:], content[:8] + b"\3" + content[9:]):
        assert header(tmp_path, other) is None


def test_the_version_is_one_byte_a_part() -> None:
    found = plan.Header("1.7.1.44", ("8.9",), later=False, size=0)
    assert found.is_version("1.7.1.44") and found.is_version("1.7.1.300")
    assert not any(found.is_version(other) for other in ("1.7.1.45", "1.7.1", "1.7.1.44.0", "1.8.1.44", "abc"))


def test_where_plans_lie() -> None:
    assert plan.path("8.9", "middle") == "plans/sm89/middle.plan"
    assert plan.path("12.0", "middle.1") == "plans/sm120/middle.1.plan"
    kinds = [name for name, _ in plan.parts(CONFIG, "inputs")]
    assert kinds == ["opening", "middle", "closing", "head"]
    each = [name for name, _ in plan.parts(CONFIG, "embedded")]
    assert each == ["opening", "middle.0", "middle.1", "closing", "head"]


def test_the_engine_for_one_gpu_of_several(tmp_path: Path) -> None:
    made = make_engine(tmp_path, "7.5", "8.9")
    one = plan.variant(made, made.targets[1])
    assert one.targets == made.targets[1:]
    assert set(made.files) - set(one.files) == {name for name, _ in plan.paths(made, "7.5")}
    assert plan.variant(one, one.targets[0]) == one


class TestProblem:
    NAME = "plans/sm89/middle.plan"

    @pytest.fixture
    def made(self, tmp_path: Path) -> Manifest:
        return make_engine(tmp_path, "8.9")

    def told(self, folder: Path, made: Manifest) -> str | None:
        return plan.problem(folder, made, self.NAME, "8.9")

    def test_none(self, tmp_path: Path, made: Manifest) -> None:
        assert self.told(tmp_path, made) is None

    def test_built_for_several_gpus_it_may_serve_one(self, tmp_path: Path, made: Manifest) -> None:
        write(tmp_path, self.NAME, build("8.9", "12.0"))
        assert self.told(tmp_path, made) is None

    def test_another_gpu(self, tmp_path: Path, made: Manifest) -> None:
        write(tmp_path, self.NAME, build("7.5"))
        assert (
            self.told(tmp_path, made)
            == f"{self.NAME} is for compute capability 7.5, engine.json says 8.9; compile again"
        )

    def test_another_version(self, tmp_path: Path, made: Manifest) -> None:
        content = build("8.9")
        write(tmp_path, self.NAME, content[:26] + b"\0\5" + content[28:])
        said = f"{self.NAME} was built by tensorrt-rtx 1.7.0.5, engine.json says tensorrt-rtx {VERSION}; compile again"
        assert self.told(tmp_path, made) == said

    def test_another_backend(self, tmp_path: Path) -> None:
        made = make_engine(tmp_path, "8.9", backend="tensorrt")
        assert self.told(tmp_path, made) is None, "its plans say nothing that is known here"
        write(tmp_path, self.NAME, build("8.9"))
        assert f"was built by tensorrt-rtx {VERSION}, engine.json says tensorrt 11.4.1.5" in str(
            self.told(tmp_path, made)
        )

    def test_no_plan_is_told_by_its_checksum_where_that_differs(self, tmp_path: Path, made: Manifest) -> None:
        size = len(build("8.9"))
        write(tmp_path, self.NAME, bytes(size))
        assert f"{self.NAME} has sha256 " in str(self.told(tmp_path, made))
        made = record(tmp_path, made)
        assert self.told(tmp_path, made) == f"{self.NAME} is no plan of TensorRT-RTX; compile again"

    def test_missing(self, tmp_path: Path, made: Manifest) -> None:
        (tmp_path / self.NAME).unlink()
        assert f"{self.NAME} is missing" in str(self.told(tmp_path, made))
        made = record(tmp_path, made)
        assert f"engine.json lists no {self.NAME}" in str(self.told(tmp_path, made))
