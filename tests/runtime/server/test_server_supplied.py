"""A package whose Model class is in a file that is not its own, and one of Truss's `trt_llm:`."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from runtime.server.package import Package, PackageError
from tests.waiting import until

MODEL = "class Model:\n    def predict(self, inputs): return 'supplied'\n"
TRT_LLM = "trt_llm: {build: {base_model: decoder}}\n"


def test_it_answers_instead_of_the_package_s_own(write: Callable[..., Path], tmp_path: Path) -> None:
    package, file, log = write("class Model: ..."), tmp_path / "elsewhere.py", tmp_path / "log"
    file.write_text(MODEL)
    command = [sys.executable, "-m", "runtime.server", "--package", str(package), "--port", "0", "--model", str(file)]
    with log.open("w") as stderr, subprocess.Popen(command, stderr=stderr) as process:
        try:
            until(lambda: "Completed model.load()" in log.read_text(), 20)
            port = log.read_text().partition("http://127.0.0.1:")[2].partition('"')[0]
            answer = httpx.post(f"http://127.0.0.1:{port}/v1/models/model:predict", json={})
            assert answer.json() == "supplied"
        finally:
            process.terminate()


@pytest.mark.parametrize(
    ("config", "concurrency"),
    [("", 1), (TRT_LLM, 512), (TRT_LLM + "runtime: {predict_concurrency: 8}\n", 8), ("trt_llm: null\n", 1)],
)
def test_concurrency_of_trt_llm_is_truss_s(write: Callable[..., Path], config: str, concurrency: int) -> None:
    assert Package.open(write("", config)).predict_concurrency == concurrency


def test_a_model_that_wants_baseten_s_engine_is_told_what_to_do(write: Callable[..., Path], tmp_path: Path) -> None:
    file = tmp_path / "model.py"
    file.write_text("class Model:\n    def __init__(self, trt_llm, **kwargs): ...\n")
    with pytest.raises(PackageError, match=r"make one with runtime\.llm\.LLM"):
        Package.open(write("", TRT_LLM), file).create_model()


def test_a_model_that_can_do_without_it_is_made(write: Callable[..., Path], tmp_path: Path) -> None:
    file = tmp_path / "model.py"
    file.write_text("class Model:\n    def __init__(self, trt_llm=None, **kwargs): self.engine = trt_llm\n")
    model = Package.open(write("", TRT_LLM), file).create_model()
    assert getattr(model, "engine", 0) is None
