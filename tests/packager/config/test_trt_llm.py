"""`trt_llm:` becomes `engine:`, field by field: taken, warned about, or refused; nothing is lost silently."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from packager.config import PackageConfig, load
from packager.config.section import Section
from packager.config.translation import ROWS
from packager.config.trt_llm import TrtLlm
from packager.errors import ConfigError
from tests.packager.config.trt_llm_cases import CASES, Case, section

FIELD = re.compile(r"(?:warning: )?.*?config\.yaml:(\d+): (?:trt_llm\.)?([\w.]+)")


def read(folder: Path, text: str) -> PackageConfig:
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    return load(folder)


def told(lines: str) -> list[str]:
    """The fields that lines of output are about."""
    found = [FIELD.match(line) for line in lines.splitlines()]
    assert all(found), lines
    return [match[2] for match in found if match]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_realistic_sections(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if case.refused:
        with pytest.raises(ConfigError) as caught:
            read(tmp_path, case.config)
        assert sorted(told(caught.value.message)) == sorted(case.refused)
        assert caught.value.exit_code == 2
        return
    engine = read(tmp_path, case.config).engine
    assert engine is not None
    assert engine.model_dump(include=set(case.engine)) == case.engine
    assert sorted(told(capsys.readouterr().err)) == sorted(case.warned)


def fields(of: type[Section] = TrtLlm, prefix: str = "") -> Iterator[str]:
    """Every field, by its path; one that holds a section is its section's fields."""
    for name, field in of.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            yield from fields(inner, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_every_field_has_its_row() -> None:
    rows = [row.path for row in ROWS]
    assert len(rows) == len(set(rows))
    assert not [path for path in fields() if not any(path == row or path.startswith(f"{row}.") for row in rows)]


def test_every_row_says_something() -> None:
    assert not [row.path for row in ROWS if not (row.engine or row.note or row.warnings or row.errors)]


def test_defaults_written_out_say_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = read(tmp_path, section()).model_dump_json(exclude={"engine"})
    capsys.readouterr()
    engine = read(tmp_path, written).engine
    assert told(capsys.readouterr().err) == []
    assert engine == read(tmp_path, section() + "engine: {kv_cache_fraction: 0.9}").engine


def test_the_line_and_the_value_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, section("tensor_parallel_count: 2\nquantization_type: fp4"))
    assert caught.value.message.splitlines() == [
        f"{tmp_path}/config.yaml:7: trt_llm.build.tensor_parallel_count: expected 1: an engine runs on one GPU in this "
        "version, found 2",
        f"{tmp_path}/config.yaml:8: trt_llm.build.quantization_type: expected another: 4-bit floats cannot be compiled "
        "yet; weights_int4 and fp8 can, found 'fp4'",
    ]
    read(tmp_path, section("gather_all_token_logits: true"))
    assert capsys.readouterr().err == (
        f"warning: {tmp_path}/config.yaml:7: trt_llm.build.gather_all_token_logits: logits are computed for the last "
        "token only; ignored\n"
    )


REPOSITORY = "trt_llm: {build: {checkpoint_repository: {source: HF, repo: a/b}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("trt_llm: {}", "trt_llm.build is missing"),
        ("trt_llm: {build: {}}", "trt_llm.build: checkpoint_repository is missing, and engine.checkpoint too"),
        ("trt_llm: {build: {}}\nengine: {dtype: float16}", "engine.checkpoint is missing"),
        ("trt_llm: true", "trt_llm: expected fields, found true"),
        (f"{REPOSITORY}, max_batchsize: 4}}}}", "unknown field 'max_batchsize' under trt_llm.build; did you mean"),
        (f"{REPOSITORY}}}, build_args: 4}}", "unknown field 'build_args' under trt_llm; "),
        (f"{REPOSITORY}, max_beam_width: 2}}}}", "trt_llm.build.max_beam_width: expected 1, found 2"),
        (
            f"{REPOSITORY}, max_batch_size: 4096}}}}",
            "trt_llm.build.max_batch_size: expected less than or equal to 2048",
        ),
        (f"{REPOSITORY}, max_num_tokens: 64}}}}", "trt_llm.build.max_num_tokens: expected greater than 64, found 64"),
        (
            f"{REPOSITORY}, quantization_config: {{calib_size: 100}}}}}}",
            "trt_llm.build.quantization_config.calib_size: expected a multiple of 64, found 100",
        ),
        (
            f"{REPOSITORY}, quantization_type: int8}}}}",
            "trt_llm.build.quantization_type: expected 'no_quant', 'weights_int8',",
        ),
        (
            f"{REPOSITORY}, plugin_configuration: {{paged_kv_cache: false}}}}}}",
            "trt_llm.build.plugin_configuration: use_paged_context_fmha needs paged_kv_cache",
        ),
        (
            f"{REPOSITORY}, plugin_configuration: {{use_paged_context_fmha: false}}}}, "
            "runtime: {enable_chunked_context: true}}",
            "trt_llm.runtime: enable_chunked_context needs use_paged_context_fmha",
        ),
        (
            f"{REPOSITORY}}}, runtime: {{max_batch_size: 8}}}}",
            "trt_llm.runtime: max_batch_size is for inference_stack v2; the limits of v1 stand under build",
        ),
        (
            f"{REPOSITORY}}}, inference_stack: v2, runtime: {{total_token_limit: 8}}}}",
            "trt_llm.runtime: total_token_limit is for inference_stack v1",
        ),
        (
            f"{REPOSITORY}, max_seq_len: 8}}, inference_stack: v2}}",
            "trt_llm.build: max_seq_len is not for inference_stack v2, whose limits stand under runtime",
        ),
        ("trt_llm: {build: {checkpoint_repository: {source: HF, repo: gpt2}}}", "expected ORG/NAME, found 'gpt2'"),
        (
            "trt_llm: {build: {checkpoint_repository: {source: HF, repo: 'https://huggingface.co/a/b'}}}",
            "trt_llm.build.checkpoint_repository.repo: expected ORG/NAME",
        ),
        ("trt_llm: {build: {checkpoint_repository: {source: S3, repo: 'gs://a/b'}}}", "expected s3://BUCKET/PATH"),
        ("trt_llm: {build: {checkpoint_repository: {source: GCS, repo: 's3://a/b'}}}", "expected gs://BUCKET/PATH"),
        (
            "trt_llm: {build: {checkpoint_repository: {source: REMOTE_URL, repo: a.tar}}}",
            "expected an https:// address",
        ),
        ("trt_llm: {build: {checkpoint_repository: {source: FTP, repo: a}}}", "expected 'HF', 'GCS', 'S3'"),
    ],
)
def test_what_is_wrong(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    (line,) = caught.value.message.splitlines()
    assert problem in line


def test_a_checkpoint_of_ones_own_mends_what_cannot_be_fetched(tmp_path: Path) -> None:
    azure = section().replace("source: HF, repo: org/model", "source: AZURE, repo: az://a/b")
    engine = read(tmp_path, azure + "engine: {checkpoint: hf://org/copy}").engine
    assert engine is not None and engine.checkpoint == "hf://org/copy"
    engine = read(tmp_path, "trt_llm: {build: {max_seq_len: 64}}\nengine: {checkpoint: hf://org/copy}").engine
    assert engine is not None and engine.max_model_len == 64


def test_a_python_too_old_for_the_runtime_is_not_asked_for(tmp_path: Path) -> None:
    assert read(tmp_path, section() + "python_version: py39").python_version == "py313"
    assert read(tmp_path, section() + "python_version: py312").python_version == "py312"
    assert read(tmp_path, "engine: {checkpoint: hf://a/b}\npython_version: py39").python_version == "py39"
