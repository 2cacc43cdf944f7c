"""What `load` says about a config.yaml that is wrong."""

from pathlib import Path

import pytest

from packager.config import load
from packager.errors import ConfigError


def refused(folder: Path, text: str | bytes) -> list[str]:
    """The problems, without the name of the file in front."""
    (folder / "config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load(folder)
    lines = caught.value.message.splitlines()
    prefix = f"{folder}/config.yaml:"
    assert all(line.startswith(prefix) for line in lines)
    return [line.removeprefix(prefix) for line in lines]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "engine:\n  checkpoint: a\n  max_batchsize: 4",
            "3: unknown field 'max_batchsize' under engine; did you mean 'max_batch_size'?",
        ),
        ("\nmodle_name: a", "2: unknown field 'modle_name'; did you mean 'model_name'?"),
        ("Model-Name: a", "1: unknown field 'Model-Name'; did you mean 'model_name'?"),
        ("cpu: 4", "1: unknown field 'cpu'; it belongs under resources"),
        (
            "engine:\n  checkpoint: a\n  secrets: {}",
            "3: unknown field 'secrets' under engine; it belongs at the top level",
        ),
        ("zzz: 1", "1: unknown field 'zzz'"),
        ("mount_location: /a", "1: unknown field 'mount_location'"),
        (
            "runtime:\n  transport: {zzz: 1}",
            "2: unknown field 'zzz' under runtime.transport; known: kind, ping_interval_seconds, ping_timeout_seconds",
        ),
        (
            "weights:\n- source: hf://a\n  mount_location: /a\n  auht: {}",
            "4: unknown field 'auht' under weights[0]; did you mean 'auth'?",
        ),
    ],
)
def test_unknown_fields(tmp_path: Path, text: str, problem: str) -> None:
    assert refused(tmp_path, text) == [problem]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("model_name: 3", "1: model_name: expected text, found 3"),
        ("model_name: [a]", "1: model_name: expected text, found a list"),
        ("requirements: a", "1: requirements: expected a list, found 'a'"),
        ("requirements:\n- a\n- 1.5", "3: requirements[1]: expected text, found 1.5"),
        ("resources:", "1: resources: expected fields, found nothing"),
        ("resources:\n  cpu: lots", "2: resources.cpu: expected CPU cores such as 4 or 500m, found 'lots'"),
        ("resources: {cpu: 0}", "1: resources.cpu: expected CPU cores such as 4 or 500m, found 0"),
        (
            "resources: {memory: 4GB}",
            "1: resources.memory: expected an amount of memory such as 16Gi or 512M, found '4GB'",
        ),
        (
            "resources: {accelerator: 'L4:0'}",
            "1: resources.accelerator: expected a GPU and a count, such as A100:2, found 'L4:0'",
        ),
        (
            "resources: {accelerator: [L4]}",
            "1: resources.accelerator: expected a GPU such as L4 or A100:2, found a list",
        ),
        ("runtime: {predict_concurrency: true}", "1: runtime.predict_concurrency: expected a whole number, found true"),
        ("runtime: {predict_concurrency: '8'}", "1: runtime.predict_concurrency: expected a whole number, found '8'"),
        ("runtime: {predict_concurrency: 0}", "1: runtime.predict_concurrency: expected at least 1, found 0"),
        ("runtime: {num_workers: 2}", "1: runtime.num_workers: expected 1, found 2"),
        ("live_reload: maybe", "1: live_reload: expected true or false, found 'maybe'"),
        ("engine: {dtype: bfloat16}", "1: engine.checkpoint is missing"),
        (
            "engine: {source: ghcr.io/me/m:1}",
            "1: engine.source: expected oci://REGISTRY/NAME:TAG or hf://ORG/NAME, found 'ghcr.io/me/m:1'",
        ),
        ("engine: {source: 'oci://m:1'}", "1: engine.source: expected oci://REGISTRY/NAME:TAG, found 'oci://m:1'"),
        (
            "engine:\n  checkpoint: a\n  dtype: fp8",
            "3: engine.dtype: expected 'bfloat16', 'float16' or 'float32', found 'fp8'",
        ),
        ("engine: {checkpoint: ''}", "1: engine.checkpoint: expected text, found ''"),
        (
            "engine: {checkpoint: a, quantization: int9}",
            "1: engine.quantization: expected 'int8', 'int4', 'fp8' or 'smoothquant', found 'int9'",
        ),
        ("data_dir: ../data", "1: data_dir: expected a path inside the package folder, found '../data'"),
        ("environment_variables: {A: [1]}", "1: environment_variables.A: expected text or a number, found a list"),
        ("environment_variables: {A: }", "1: environment_variables.A: expected text or a number, found nothing"),
        (
            "environment_variables: {1A: x}",
            "1: environment_variables.1A: expected letters, digits, '_', '-' or '.', first a letter or '_', "
            "found '1A' as a name",
        ),
        (
            "requirements: [a]\nrequirements_file: b",
            "2: requirements_file: expected requirements or requirements_file, not both, found 'b'",
        ),
        (
            "build: {no_cache: true}",
            "1: build.no_cache: expected false: Truss takes no_cache on its command line only, found true",
        ),
        ("- a\n- b", "1: the file: expected fields, found a list"),
    ],
)
def test_wrong_values(tmp_path: Path, text: str, problem: str) -> None:
    assert refused(tmp_path, text) == [problem]


def test_an_unknown_gpu_names_the_nearest(tmp_path: Path) -> None:
    (problem,) = refused(tmp_path, "resources:\n  accelerator: L5")
    assert problem.startswith("2: resources.accelerator: unknown GPU 'L5' (did you mean")
    assert "nvidia-l4 = L4" in problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("model_name: a\ndescription: b\nmodel_name: c", "3: 'model_name' stands here and on line 1; keep one"),
        ("engine:\n  checkpoint: a\n  'checkpoint': b", "3: 'checkpoint' stands here and on line 2; keep one"),
        (
            "model_name: [a",
            "1: not valid YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'",
        ),
        ("a: b: c", "1: not valid YAML: mapping values are not allowed here"),
        (
            "model_name: a\n---\nmodel_name: b",
            "2: not valid YAML: expected a single document in the stream, but found another document",
        ),
        ("\ndescription: 2001-99-99", "2: not valid YAML: '2001-99-99' is not a valid timestamp"),
        ("{[a]: b}", "1: not valid YAML: expected text as a key"),
        ("model_name: !!python/name:os.system x", "1: not valid YAML: could not determine a constructor"),
        ("model_metadata: &a\n  b: *a", "1: an alias stands inside what it refers to"),
        ("model_name: a\ndescription: \x07", "2: not valid YAML: special characters are not allowed"),
        (b"model_name: a\ndescription: \xff", "2: not UTF-8 text"),
        ("[" * 5000, "1: nested too deeply"),
    ],
)
def test_what_is_not_one_clean_document(tmp_path: Path, text: str | bytes, problem: str) -> None:
    (found,) = refused(tmp_path, text)
    assert found.startswith(problem)


def test_all_problems_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "model_name: 1\nmodel_name: 2\nfoo: 1\nengine:\n  dtype: x\n"
    assert [problem.partition(":")[0] for problem in refused(tmp_path, text)] == ["2", "2", "3", "4", "5"]


@pytest.mark.parametrize("folder", ["missing", "."])
def test_a_missing_file_names_init(tmp_path: Path, folder: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / folder)
    assert caught.value.message == f"{tmp_path / folder / 'config.yaml'} does not exist"
    assert "trtpack init" in (caught.value.hint or "")
    assert caught.value.exit_code == 2
