"""What holds for every config.yaml, not only for those somebody thought of."""

import pathlib
import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k8s.gpus import GPUS
from packager.config import PackageConfig, load
from packager.config.document import Path
from packager.config.section import Section
from packager.errors import ConfigError

shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

texts = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=20)
paths = st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8})?", fullmatch=True)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
)
adapter_names = st.from_regex(r"[a-zA-Z0-9][a-z0-9._-]{0,8}", fullmatch=True)
env_names = st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True)
gpu_names = st.sampled_from([name for gpu in GPUS for name in (gpu.name, *gpu.truss_names)])
accelerators = st.builds(lambda name, count: name + (f":{count}" if count else ""), gpu_names, st.integers(0, 16))

engines = st.fixed_dictionaries(
    {"checkpoint": texts.filter(bool)},
    optional={
        "dtype": st.sampled_from(["bfloat16", "float16", "float32"]),
        "max_model_len": st.integers(1) | st.none(),
        "max_batch_size": st.integers(1),
        "max_num_tokens": st.integers(1),
    },
)
resources = st.fixed_dictionaries(
    {},
    optional={
        "cpu": st.integers(1, 200) | st.integers(1, 9000).map(lambda milli: f"{milli}m"),
        "memory": st.builds(lambda n, unit: f"{n}{unit}", st.integers(1), st.sampled_from(["", "M", "Gi", "Ti"])),
        "accelerator": accelerators | st.none(),
        "node_count": st.integers(1) | st.none(),
    },
)
runtimes = st.fixed_dictionaries(
    {},
    optional={
        "predict_concurrency": st.integers(1),
        "transport": st.fixed_dictionaries({"kind": st.sampled_from(["http", "websocket", "grpc"])}),
        "health_checks": st.fixed_dictionaries({}, optional={"startup_threshold_seconds": st.integers()}),
    },
)
repositories = st.fixed_dictionaries(
    {"source": st.just("HF"), "repo": st.just("org/name")}, optional={"revision": st.just("main") | st.none()}
)
trt_llms = st.fixed_dictionaries(
    {
        "build": st.fixed_dictionaries(
            {"checkpoint_repository": repositories},
            optional={
                "quantization_type": st.sampled_from(["no_quant", "weights_int4", "fp8_kv"]),
                "max_seq_len": st.integers(1, 1048576) | st.none(),
                "max_batch_size": st.integers(1, 2048),
                "lora_adapters": st.dictionaries(adapter_names, repositories, max_size=2) | st.none(),
            },
        )
    },
    optional={
        "inference_stack": st.just("v1"),
        "runtime": st.fixed_dictionaries({}, optional={"kv_cache_free_gpu_mem_fraction": st.floats(0.01, 1)}),
    },
)
configs = st.fixed_dictionaries(
    {},
    optional={
        "model_name": texts,
        "model_metadata": st.dictionaries(texts, values, max_size=3),
        "engine": engines,
        "resources": resources,
        "runtime": runtimes,
        "requirements": st.lists(texts, max_size=3),
        "environment_variables": st.dictionaries(env_names, st.booleans() | st.integers() | texts, max_size=3),
        "secrets": st.dictionaries(texts, texts | st.none(), max_size=3),
        "python_version": st.sampled_from(["py311", "py314"]),
        "model_module_dir": paths,
        "weights": st.lists(
            st.fixed_dictionaries({"source": texts.filter(bool), "mount_location": paths.map("/{}".format)})
        ),
        "trt_llm": trt_llms,
    },
)


def read(folder: pathlib.Path, data: object) -> PackageConfig:
    (folder / "config.yaml").write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
    return load(folder)


def sections(model: type[Section] = PackageConfig, path: Path = ()) -> Iterator[tuple[Path, type[Section]]]:
    """Every section with its path; 0 stands for the items of a list."""
    yield path, model
    for name, field in model.model_fields.items():
        yield from within(field.annotation, (*path, name))


def within(annotation: Any, path: Path) -> Iterator[tuple[Path, type[Section]]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield from sections(annotation, path)
    elif get_origin(annotation) is tuple:
        yield from within(get_args(annotation)[0], (*path, 0))
    elif get_origin(annotation) is dict:
        yield from within(get_args(annotation)[1], (*path, "name"))
    else:
        for argument in get_args(annotation):
            yield from within(argument, path)


def nested(path: Path, value: Any) -> Any:
    for part in reversed(path):
        value = [value] if part == 0 else {part: value}
    return value


SECTIONS = dict(sections())
KEYS = [(path, key) for path, section in SECTIONS.items() for key in section.model_fields]


def misspellings(key: str) -> Iterator[str]:
    """Every way to leave out, double or swap one letter, or to hit another key for it."""
    for i in range(len(key)):
        yield key[:i] + key[i + 1 :]
        yield key[:i] + key[i] + key[i:]
        yield key[:i] + key[i + 1 : i + 2] + key[i] + key[i + 2 :]
        yield from (key[:i] + letter + key[i + 1 :] for letter in "exq_")


@shared_folder
@given(config=configs)
def test_a_valid_config_survives_being_written_and_read(tmp_path: pathlib.Path, config: dict[str, Any]) -> None:
    once = read(tmp_path, config)
    assert read(tmp_path, once.model_dump(mode="json")) == once
    assert once.model_name == config.get("model_name")
    assert once.model_metadata == config.get("model_metadata", {})


@pytest.mark.parametrize(("path", "key"), KEYS, ids=[".".join(map(str, (*path, key))) for path, key in KEYS])
def test_every_misspelling_of_every_key_is_caught(tmp_path: pathlib.Path, path: Path, key: str) -> None:
    wrong = sorted(set(misspellings(key)) - set(SECTIONS[path].model_fields))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(nested(path, dict.fromkeys(wrong, 0)), sort_keys=False))
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    told = {match[1]: match[2] for match in re.finditer(r"unknown field '(.*?)'(.*)", caught.value.message)}
    assert told.keys() == set(wrong)
    assert all("did you mean '" in advice or "it belongs" in advice for advice in told.values())


@shared_folder
@given(key=st.sampled_from(KEYS), value=values)
def test_a_random_value_is_read_or_refused_with_its_line(
    tmp_path: pathlib.Path, key: tuple[Path, str], value: Any
) -> None:
    path, name = key
    try:
        read(tmp_path, nested(path, {name: value}))
    except ConfigError as error:
        assert all(
            re.match(rf"{re.escape(str(tmp_path))}/config\.yaml:\d+: ", line) for line in error.message.split("\n")
        )


@shared_folder
@given(
    data=st.binary(max_size=60)
    | texts.map(str.encode)
    | st.text("a:-[]{}&*!|>\"'\n #<?%@`~,0.", max_size=40).map(str.encode)
)
def test_random_bytes_are_read_or_refused(tmp_path: pathlib.Path, data: bytes) -> None:
    (tmp_path / "config.yaml").write_bytes(data)
    try:
        load(tmp_path)
    except ConfigError as error:
        assert str(error).startswith(f"{tmp_path}/config.yaml:")
