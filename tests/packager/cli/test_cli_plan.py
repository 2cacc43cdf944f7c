"""`trtpack plan`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from huggingface_hub import constants

from k8s.gpus import GPUS
from packager.cli import main
from tests.packager.checkpoint.ggufs import write_gguf
from tests.packager.checkpoint.hub_stand_in import COMMIT, serving
from tests.packager.plan.configs import LLAMA_3_8B, LLAMA_3_70B


@pytest.fixture
def config_8b(tmp_path: Path) -> Path:
    return written(tmp_path / "8b", LLAMA_3_8B)


@pytest.fixture
def config_70b(tmp_path: Path) -> Path:
    return written(tmp_path / "70b", LLAMA_3_70B)


def written(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "config.json"


def plan(*args: str | Path) -> Result:
    return CliRunner().invoke(main, ["plan", *map(str, args)])


def told(*args: str | Path) -> Any:
    result = plan(*args, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def test_8b_on_every_gpu(config_8b: Path) -> None:
    answer = told(config_8b)
    assert answer["parameters"] == 8_030_261_248
    assert answer["weight_bytes"] == 16_060_522_496
    assert answer["kv_bytes_per_token"] == 131_072
    assert (answer["max_model_len"], answer["context"]) == (8192, 2048)
    assert "not a measurement" in answer["note"]
    rows = {row["gpu"]: row for row in answer["gpus"]}
    assert list(rows) == [gpu.name for gpu in GPUS]
    l4 = rows["nvidia-l4"]
    assert (l4["runs"], l4["fits"], l4["reason"]) == (True, True, None)
    # 24 GB - 16.06 GB; 3407 blocks of 16 tokens, 512 of which hold 8192 tokens and 128 hold 2048: see test_memory
    assert (l4["bytes_left"], l4["kv_cache_tokens"], l4["sequences"]) == (7_939_477_504, 54_512, 6)
    assert (l4["speed"]["batch"], l4["speed"]["limited_by"]) == (26, "memory")
    # see test_roofline
    assert l4["speed"]["decode_one"] == pytest.approx(19.636, abs=0.001)
    assert l4["speed"]["decode_batch"] == pytest.approx(354.72, abs=0.01)
    assert l4["speed"]["prefill"] == pytest.approx(8347, abs=1)
    h100 = rows["nvidia-h100-80gb"]
    # (80 GB - 16.06 GB) · 0.9 / 2 MiB a block = 27,439 blocks; / 128 = 214 sequences of 2048 tokens
    assert (h100["kv_cache_tokens"], h100["speed"]["batch"]) == (27_439 * 16, 214)


def test_70b_does_not_fit_on_80_gb(config_70b: Path) -> None:
    answer = told(config_70b, "--gpu", "H100", "--gpu", "B200")
    h100, b200 = answer["gpus"]
    assert answer["weight_bytes"] == 141_107_412_992
    assert answer["kv_bytes_per_token"] == 327_680
    assert (h100["runs"], h100["fits"], h100["gpus_needed"], h100["speed"]) == (False, False, 2, None)
    assert h100["bytes_left"] == 80_000_000_000 - 141_107_412_992
    # (180 GB - 141.11 GB) · 0.9 / (16 · 327,680) = 6676.2 blocks; / 512 a sequence = 13
    assert (b200["runs"], b200["kv_cache_tokens"], b200["sequences"]) == (True, 6676 * 16, 13)
    text = plan(config_70b, "--gpu", "H100").stdout
    assert "weights of 141.1 GB in 80 GB; it would take the memory of 2 such GPUs" in text
    assert "Tensor parallelism, one engine over several GPUs, is not in this version." in text


def test_quantised_70b_fits(config_70b: Path) -> None:
    answer = told(config_70b, "--quantization", "int4", "--gpu", "H100")
    assert (answer["quantization"], answer["group_size"]) == ("int4", 128)
    # 80 layers of 855,638,016 values, two a byte, with 2 bytes of scale for 128; embedding, head and norms in 2 bytes
    layers = 80 * (855_638_016 // 2 + 855_638_016 // 128 * 2)
    assert answer["weight_bytes"] == layers + (2 * 128256 * 8192 + 161 * 8192) * 2
    assert answer["gpus"][0]["runs"]


def test_short_sequences_are_limited_by_compute(config_8b: Path) -> None:
    speed = told(config_8b, "--gpu", "H100", "--context", "16")["gpus"][0]["speed"]
    assert (speed["batch"], speed["limited_by"]) == (308, "compute")


@pytest.mark.parametrize(
    ("gpu", "options", "reason"),
    [
        ("T4", (), "no bfloat16"),
        ("A100", ("--quantization", "fp8"), "fp8 starts at 8.9"),
        ("nvidia-tesla-p4", (), "CUDA 13 starts at 7.5"),
        ("V100", ("--dtype", "float16"), "CUDA 13 starts at 7.5"),
    ],
)
def test_what_a_gpu_cannot_run_has_a_reason(gpu: str, options: tuple[str, ...], reason: str, config_8b: Path) -> None:
    row = told(config_8b, "--gpu", gpu, *options)["gpus"][0]
    assert not row["runs"]
    assert row["speed"] is None
    assert reason in row["reason"]
    assert reason in plan(config_8b, "--gpu", gpu, *options).stdout


def test_the_longest_sequence_must_fit(config_8b: Path) -> None:
    config = json.loads(config_8b.read_text())
    config_8b.write_text(json.dumps({**config, "max_position_embeddings": 131072}))
    row = told(config_8b, "--gpu", "L4")["gpus"][0]
    assert "room for 54,512 tokens, and max_model_len is 131,072; lower it" in row["reason"]
    assert told(config_8b, "--gpu", "L4", "--max-model-len", "32768")["gpus"][0]["sequences"] == 1


@pytest.mark.parametrize("options", [(), ("--dtype", "float16", "--context", "16"), ("--max-model-len", "100")])
def test_the_table_is_for_people(options: tuple[str, ...], config_8b: Path) -> None:
    result = plan(config_8b, *options)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 120
    assert lines[0].startswith("LlamaForCausalLM, 8,030 M parameters, ")
    assert "Speeds are a roofline, an upper bound" in result.stdout
    for gpu in GPUS:
        assert sum(line.split()[:1] == [gpu.name] for line in lines) == 1


def test_a_rate_that_is_not_known_is_said(config_8b: Path) -> None:
    text = plan(config_8b, "--dtype", "float16", "--quantization", "smoothquant", "--gpu", "L4").stdout
    assert "n/a: the GPU table has no rate for this arithmetic" in text


def test_a_package_says_what_it_wants(tmp_path: Path, config_8b: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "engine:\n  checkpoint: 8b\n  dtype: float16\n  quantization: int4\n  group_size: 32\n  max_model_len: 4096\n"
        "  kv_cache_fraction: 0.5\n"
    )
    answer = told(tmp_path, "--gpu", "L4")
    assert (answer["dtype"], answer["quantization"], answer["group_size"]) == ("float16", "int4", 32)
    assert answer["max_model_len"] == 4096
    row = answer["gpus"][0]
    assert row["kv_cache_tokens"] == row["bytes_left"] // 2 // (16 * 131_072) * 16
    assert told(tmp_path, "--gpu", "L4", "--quantization", "int8")["group_size"] is None


def test_the_torch_backend_holds_quantised_weights_whole(tmp_path: Path, config_8b: Path) -> None:
    (tmp_path / "config.yaml").write_text("engine: {checkpoint: 8b, backend: torch, quantization: int8}\n")
    assert told(tmp_path, "--gpu", "L4")["weight_bytes"] == 16_060_522_496


def test_a_package_s_own_layers_are_known(tmp_path: Path, shipped_layers: None) -> None:
    written(tmp_path / "own", {**LLAMA_3_8B, "hidden_act": "doubled"})
    refused = plan(tmp_path / "own", "--gpu", "L4")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert (
        "activation 'doubled' is not registered: name the file that registers it under engine.layers" in refused.stderr
    )
    (tmp_path / "layers.py").write_text(
        "from runtime.model.activations import activation\nactivation('doubled')(lambda x: 2 * x)\n"
    )
    (tmp_path / "config.yaml").write_text("engine: {checkpoint: own, layers: layers.py}\n")
    assert told(tmp_path, "--gpu", "L4")["gpus"][0]["runs"]


def test_the_hub_is_asked_for_the_config_alone(
    tmp_path: Path, config_8b: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (config_8b.parent / "model.safetensors").write_bytes(b"weights")
    with serving(config_8b.parent) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        answer = told("hf://org/tiny@v1", "--gpu", "L4")
    assert (answer["source"], answer["revision"]) == ("hf://org/tiny@v1", COMMIT)
    assert {path for _, path, _ in hub.requests} == {"/org/tiny/resolve/v1/config.json"}


def test_a_gguf_says_what_its_checkpoint_says(tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tiny_checkpoint("qwen3")
    of_gguf, of_folder = told(write_gguf(tmp_path / "tiny.gguf", folder)), told(folder)
    assert of_gguf.pop("source") != of_folder.pop("source")
    assert of_gguf == of_folder


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("nowhere",), 1, "checkpoint nowhere does not exist"),
        (("ftp://host/model",), 1, "ftp://host/model has an unknown scheme"),
        (("https://host/model.tar?key=secret",), 1, "https://host/model.tar: to plan it, its weights would be"),
        (("hf://only-a-name",), 1, "hf://only-a-name is not a Hub checkpoint"),
        (("8b", "--gpu", "L5"), 2, "unknown GPU 'L5'"),
        (("8b", "--gpu", "A100:2"), 2, "an engine runs on one GPU in this version, and --gpu A100:2 asks for 2"),
        (("8b", "--max-model-len", "9000"), 2, "max_model_len is 9000, but 8b was trained for 8192 tokens"),
        (("8b", "--max-model-len", "64", "--context", "65"), 2, "--context is 65"),
        (("8b", "--group-size", "32"), 2, "expected group_size with quantization int4 only"),
        (("empty",), 1, "config.json is missing"),
    ],
)
def test_what_cannot_be_planned_is_one_message(
    args: tuple[str, ...], code: int, message: str, config_8b: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(config_8b.parents[1])
    Path("empty").mkdir()
    result = plan(*args)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
