"""`trtpack inspect`: an engine as a table and as JSON, and what it says of one that lies."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.filesize import decimal

from packager.cli import main
from runtime.engine.manifest import Limits, Manifest, Precision, Quality, Quantization
from tests.plans import VERSION, build, make_engine, record, write

MIDDLE = "plans/sm89/middle.plan"


def inspect(*args: object) -> Result:
    return CliRunner(env={"COLUMNS": "150"}).invoke(main, ["inspect", *map(str, args)])


def rows(result: Result) -> dict[str, str]:
    """The table's lines by their first word, with single spaces."""
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    return {first: rest for first, _, rest in (line.partition(" ") for line in lines)}


@pytest.fixture
def made(tmp_path: Path) -> Manifest:
    return make_engine(tmp_path, "8.9", "12.0")


def test_the_table(tmp_path: Path, made: Manifest) -> None:
    result = inspect(tmp_path)
    assert result.exit_code == 0, result.output
    told = rows(result)
    assert told["engine"] == f"{tmp_path}, compiled by trtpack 0.1.0"
    assert told["model"] == "LlamaForCausalLM, 0.1 M parameters"
    assert told["source"] == "hf://org/[tiny] at abc"
    assert told["backend"] == f"tensorrt-rtx {VERSION}, PyTorch 2.13.0"
    assert told["targets"] == "nvidia-l4 (compute capability 8.9), nvidia-rtx-pro-6000 (compute capability 12.0)"
    assert told["precision"] == "float16"
    assert told["limits"] == "512 tokens a sequence, 4 sequences a batch, 64 tokens a step"
    assert told["weights"] == "inputs of the plans"
    assert told["weights/"] == "4.1 kB in 1 file"
    assert told["plans/"].endswith(" in 8 files")
    for kind in ("opening", "middle", "closing", "head"):
        for folder, capability in (("sm89", "8.9"), ("sm120", "12.0")):
            size = decimal(len(build(capability)))
            assert told[f"plans/{folder}/{kind}.plan"] == f"{size} {VERSION} {capability} agrees"
    assert f"Checking {len(made.files)} files" in result.stderr


def test_a_quantised_engine(tmp_path: Path) -> None:
    quality = Quality(text="the shipped sample", tokens=500, kl=0.01234, perplexity=12.5, reference_perplexity=12.25)
    quantization = Quantization(scheme="int4", group_size=128, method="awq", quality=quality)
    limits = Limits(max_model_len=512, max_batch_size=4, max_num_tokens=64, kv_cache_fraction=0.8)
    precision = Precision(dtype="bfloat16", quantization=quantization)
    make_engine(tmp_path, "8.9", precision=precision, weights="embedded", limits=limits)
    told = rows(inspect(tmp_path))
    assert told["precision"] == "bfloat16, int4 (groups of 128, awq)"
    assert told["quality"] == (
        "KL divergence 0.01234 nats, perplexity 12.5 (unquantised 12.25), on 500 tokens of the shipped sample"
    )
    assert told["KV"] == "cache 80% of free memory"
    assert told["weights"] == "inside the plans"
    assert told["plans/sm89/middle.1.plan"].endswith("8.9 agrees")


def test_an_engine_without_plans(tmp_path: Path) -> None:
    make_engine(tmp_path, backend="torch")
    result = inspect(tmp_path)
    assert result.exit_code == 0
    told = rows(result)
    assert (told["backend"], told["targets"]) == ("torch 2.13.0", "any GPU, or a CPU")
    assert "plan" not in told


def test_plans_whose_header_is_not_known(tmp_path: Path) -> None:
    make_engine(tmp_path, "9.0", backend="tensorrt")
    result = inspect(tmp_path)
    assert result.exit_code == 0
    assert rows(result)["plans/sm90/head.plan"] == "104 bytes not known not known not known"


def test_json(tmp_path: Path, made: Manifest) -> None:
    result = inspect(tmp_path, "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    expected = json.loads(made.dump())
    assert {key: told[key] for key in expected} == expected
    assert (told["engine"], told["problems"]) == (str(tmp_path), [])
    assert told["plans"][MIDDLE] == {
        "size": len(build("8.9")),
        "version": VERSION,
        "compute_capabilities": ["8.9"],
        "later": False,
        "problem": None,
    }


def test_a_package_is_its_engine(tmp_path: Path) -> None:
    make_engine(tmp_path / "engine", "8.9")
    (tmp_path / "config.yaml").write_text("model_name: tiny")
    assert rows(inspect(tmp_path))["engine"].startswith(f"{tmp_path}/engine, ")
    (tmp_path / "engine" / "engine.json").unlink()
    assert f"{tmp_path}/engine/engine.json does not exist" in inspect(tmp_path).stderr


def test_every_lie_is_told(tmp_path: Path, made: Manifest) -> None:
    """Engine.json with the checksums of swapped plans: their headers tell, in the table, in JSON and as errors."""
    write(tmp_path, MIDDLE, build("7.5"))
    write(tmp_path, "plans/sm120/head.plan", build("8.9"))
    record(tmp_path, made)
    problems = [
        f"{MIDDLE} is for compute capability 7.5, engine.json says 8.9; compile again",
        "plans/sm120/head.plan is for compute capability 8.9, engine.json says 12.0; compile again",
    ]
    result = inspect(tmp_path)
    assert result.exit_code == 1
    assert [line for line in result.stderr.splitlines() if "error" in line] == [f"error: {text}" for text in problems]
    assert rows(result)[MIDDLE].endswith("7.5 differs")
    assert rows(result)["plans/sm89/head.plan"].endswith("8.9 agrees")
    result = inspect(tmp_path, "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["problems"] == problems
    assert told["plans"][MIDDLE]["problem"] == problems[0]


def test_a_swapped_plan_is_one_problem_though_its_checksum_differs_too(tmp_path: Path, made: Manifest) -> None:
    write(tmp_path, MIDDLE, build("7.5"))
    told = json.loads(inspect(tmp_path, "--json").stdout)
    assert told["problems"] == [f"{MIDDLE} is for compute capability 7.5, engine.json says 8.9; compile again"]


def test_a_plan_built_for_no_target_runs_on_all_that_are_newer(tmp_path: Path, made: Manifest) -> None:
    write(tmp_path, MIDDLE, build())
    record(tmp_path, made)
    result = inspect(tmp_path)
    assert result.exit_code == 0
    assert rows(result)[MIDDLE].endswith(" 8.0, 8.6, 8.9, 12.0, 12.1, later agrees")


def test_a_version_that_is_not_the_plans(tmp_path: Path, made: Manifest) -> None:
    text = (tmp_path / "engine.json").read_text()
    (tmp_path / "engine.json").write_text(text.replace(VERSION, "1.6.0.12"))
    result = inspect(tmp_path)
    assert result.exit_code == 1
    assert result.stderr.count(f" was built by tensorrt-rtx {VERSION}, engine.json says tensorrt-rtx 1.6.0.12") == 8


def test_damaged_files_are_named_each_once(tmp_path: Path, made: Manifest) -> None:
    write(tmp_path, "weights/model-00001.safetensors", bytes(4096))
    write(tmp_path, MIDDLE, build("8.9")[:50])
    result = inspect(tmp_path)
    assert result.exit_code == 1
    assert result.stderr.count("model-00001.safetensors has sha256 ") == 1
    assert result.stderr.count(f"{MIDDLE} has 50 bytes, engine.json says ") == 1
    assert rows(result)[MIDDLE].endswith("differs")


def test_without_checksums_sizes_and_headers_are_compared(tmp_path: Path, made: Manifest) -> None:
    write(tmp_path, "weights/model-00001.safetensors", bytes(4096))
    assert inspect(tmp_path, "--no-checksums").exit_code == 0
    write(tmp_path, "weights/model-00001.safetensors", bytes(4095))
    (tmp_path / MIDDLE).unlink()
    result = inspect(tmp_path, "--no-checksums")
    assert result.exit_code == 1
    assert "model-00001.safetensors has 4095 bytes" in result.stderr
    assert result.stderr.count(f"{MIDDLE} is missing") == 1


def test_no_engine(tmp_path: Path) -> None:
    result = inspect(tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"error: {tmp_path}/engine.json does not exist; compile the engine with: trtpack compile\n"


def test_nothing_heavy_is_imported() -> None:
    """It answers at once: PyTorch alone takes seconds."""
    program = "import packager.cli.inspect, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
