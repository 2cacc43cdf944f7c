"""What a repository's README.md says of the engines in it."""

from pathlib import Path

import yaml

from packager.registry import card
from runtime.engine.manifest import Model, Precision, Quantization
from runtime.hub import Source
from runtime.registry import artifact, oci
from tests.plans import CONFIG, make_engine

SOURCE = Source("org/engines", "v1")


def render(folder: Path, source: str, *capabilities: str, quantization: Quantization | None = None) -> str:
    model = Model(architecture="LlamaForCausalLM", source=source, config=CONFIG)
    precision = Precision(dtype="float16", quantization=quantization)
    backend = "tensorrt-rtx" if capabilities else "torch"
    engine = make_engine(folder, *capabilities, model=model, precision=precision, backend=backend)
    said = {artifact.GPU: engine.targets[0].gpu} if capabilities else None
    return card.render(SOURCE, [(oci.described(b"{}", artifact.CONFIG, said), engine)])


def test_a_model_of_the_hub_is_named_as_the_base(tmp_path: Path) -> None:
    page = render(tmp_path, "hf://org/tiny@main", "8.9")
    assert yaml.safe_load(page.split("---\n")[1])["base_model"] == "org/tiny"
    assert "# org/tiny, compiled\n" in page
    assert "trtpack pull hf://org/engines --gpu nvidia-l4\n" in page


def test_a_file_s_name_alone_is_told(tmp_path: Path) -> None:
    page = render(tmp_path, "/home/somebody/weights/tiny.gguf", "8.9")
    assert "base_model" not in yaml.safe_load(page.split("---\n")[1])
    assert "# tiny.gguf, compiled\n" in page
    assert "somebody" not in page


def test_an_engine_for_any_gpu(tmp_path: Path) -> None:
    page = render(tmp_path, "hf://org/tiny")
    assert "| `any-gpu` | any | torch 2.13.0 | float16 | 512 | 4 |" in page
    assert "trtpack pull hf://org/engines\n" in page


def test_the_precision_is_that_of_the_weights(tmp_path: Path) -> None:
    page = render(tmp_path, "hf://org/tiny", "8.9", quantization=Quantization(scheme="int4", method="awq"))
    assert "| int4 (awq) |" in page
