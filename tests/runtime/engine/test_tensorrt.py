"""The executor's own code on engines of real plans, driven through the stand-in: no GPU is needed."""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import runtime.llm
from packager.checkpoint import open_checkpoint
from packager.compile.engine import compile_engine
from packager.compile.target import Choice
from packager.config.engine import EngineConfig
from packager.stand_in import StandIn
from packager.stand_in.context import ExecutionContext
from runtime.engine import bindings, executor, manifest, tensorrt, weights
from runtime.engine.engine import Engine
from runtime.engine.executor import ALIGNMENT, bindable, empty
from runtime.engine.manifest import Target
from runtime.errors import EngineError
from runtime.llm import LLM
from runtime.model.decoder import Segments
from runtime.prediction import Prediction
from runtime.sampling import SamplingParams
from tests import engines
from tests.conftest import TinyEngine
from tests.tiny import FAMILIES, VOCAB

LENGTHS = (1, 5, 17, 40, 70, 33, 2, 100)
TEXTS = (
    "The capital of France is",
    "def fibonacci(n):",
    "Once upon a time, in a small village by the sea,",
    "2 + 2 =",
    "Water boils at",
    "Q: What is the tallest mountain on Earth?\nA:",
    "Dear Sir or Madam,\n\nI am writing to",
    "A mistral is",
)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the runtime cache is kept."""
    monkeypatch.setenv("TRTPACK_CACHE_DIR", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


@pytest.fixture
def engine(plan_engine: TinyEngine, tmp_path: Path) -> Path:
    """A Llama's, to be changed at will: it decodes 4 sequences, and mixes 16 tokens a step."""
    return engines.copy(plan_engine(), tmp_path / "engine", limits={"max_batch_size": 4, "max_num_tokens": 16})


def load(folder: Path, stand_in: StandIn | None = None) -> Segments:
    found = manifest.read(folder)
    return tensorrt.segments(folder, found, "8.9", CPU, torch.float32, stand_in or StandIn(folder))


def activations(tokens: int, *widths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(tokens, width, generator=generator) for width in widths]


def generations(
    engine: Path, prompts: Sequence[Sequence[int] | str], new: int, stand_in: StandIn | None
) -> list[list[int]]:
    """Greedy tokens of all prompts in flight, arriving one after another; on PyTorch modules without a stand-in."""

    async def one(llm: LLM, prompt: Sequence[int] | str, delay: float) -> list[int]:
        await asyncio.sleep(delay)
        tokens = llm.request({"prompt": prompt}).prompt if isinstance(prompt, str) else tuple(prompt)
        prediction = Prediction(tokens, SamplingParams(), new)
        return [token async for delta in llm.deltas(prediction) for token in delta.tokens]

    async def all_of(llm: LLM) -> list[list[int]]:
        return await asyncio.gather(*(one(llm, prompt, 0.01 * index) for index, prompt in enumerate(prompts)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime.llm, "Engine", partial(Engine, stand_in=stand_in))
        llm = LLM(engine, device="cpu")
        try:
            return asyncio.run(all_of(llm))
        finally:
            llm.close()


def steps(stand_in: StandIn, profile: int) -> int:
    return sum(count for (kind, used, _), count in stand_in.runs.items() if (kind, used) == ("opening", profile))


@pytest.mark.parametrize("mode", ["inputs", "embedded"])
@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=pytest.mark.slow if name.startswith("qwen") else ()) for name in FAMILIES]
)
def test_generations_equal_those_of_the_modules(
    family: str, mode: str, plan_engine: TinyEngine, tmp_path: Path
) -> None:
    """Prompts are cut into chunks, so that steps of both profiles alternate, and some have no logits to compute."""
    limits = {"max_batch_size": 8, "max_num_tokens": 32}
    folder = engines.copy(plan_engine(family), tmp_path / "engine", limits=limits)
    if mode == "embedded":
        folder = engines.embed(folder, tmp_path / "embedded")
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(3, VOCAB, (length,), generator=generator).tolist() for length in LENGTHS]
    stand_in = StandIn(folder)
    assert generations(folder, prompts, 16, stand_in) == generations(folder, prompts, 16, None)
    assert steps(stand_in, 0) > 2 + 2  # two of each profile are the warm-up's
    assert steps(stand_in, 1) > 2 + 2


@pytest.mark.slow
def test_smollm2(smollm2_gguf: Path, tmp_path: Path) -> None:
    """The real model: 64 tokens of 8 prompts in flight."""
    config = EngineConfig(checkpoint=str(smollm2_gguf), dtype="float32", max_model_len=512, max_num_tokens=64)
    choice = Choice("tensorrt-rtx", (Target(gpu="nvidia-l4", compute_capability="8.9"),))
    compile_engine(open_checkpoint(str(smollm2_gguf), tmp_path), config, tmp_path / "engine", choice)
    stand_in = StandIn(tmp_path / "engine")
    got = generations(tmp_path / "engine", TEXTS, 64, stand_in)
    assert got == generations(tmp_path / "engine", TEXTS, 64, None)
    assert max(map(len, got)) == 64


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["inputs", "embedded"])
@pytest.mark.parametrize("scheme", ["int8", "int4", "fp8", "smoothquant"])
def test_quantised_weights_are_bound_as_they_are_stored(scheme: str, mode: str, plan_engine: TinyEngine) -> None:
    """To a percent: where activations are quantised, one between two steps may round either way."""
    folder = plan_engine(quantization=scheme, weights=mode, max_batch_size=4)
    ours, modules = load(folder), Engine(folder, device="cpu").segments
    residual, cos, sin, attention = activations(6, 64, 16, 16, 64)
    for mine, theirs in zip(ours.middles, modules.middles, strict=True):
        for got, expected in zip(
            mine(attention, residual, cos, sin), theirs(attention, residual, cos, sin), strict=True
        ):
            assert (got - expected).norm() / expected.norm() < 1e-2


@pytest.mark.parametrize("tokens", [1, 4, 5, 16])
def test_each_segment_is_its_module(tokens: int, engine: Path) -> None:
    stand_in = StandIn(engine)
    ours, modules = load(engine, stand_in), Engine(engine, device="cpu").segments
    stand_in.runs.clear()
    residual, cos, sin, attention = activations(tokens, 64, 16, 16, 64)
    for mine, theirs, given in (
        (ours.opening, modules.opening, (residual, cos, sin)),
        (ours.middles[0], modules.middles[0], (attention, residual, cos, sin)),
        (ours.middles[1], modules.middles[1], (attention, residual, cos, sin)),
        (ours.closing, modules.closing, (attention, residual)),
    ):
        torch.testing.assert_close(mine(*given), theirs(*given), rtol=1e-4, atol=1e-5)  # type: ignore[operator]
    assert torch.equal(ours.embed(torch.arange(9)), modules.embed(torch.arange(9)))
    profile = 0 if tokens <= 4 else 1
    assert stand_in.runs == {(k, profile, tokens): 2 if k == "middle" else 1 for k in ("opening", "middle", "closing")}


def test_a_head_without_rows_enqueues_nothing(engine: Path) -> None:
    stand_in = StandIn(engine)
    head = load(engine, stand_in).head
    stand_in.runs.clear()
    assert head(torch.empty(0, 64)).shape == (0, VOCAB)
    assert not stand_in.runs
    assert head(torch.ones(3, 64)).shape == (3, VOCAB)
    assert stand_in.runs == {("head", 0, 3): 1}


def test_the_warm_up_runs_the_ends_of_each_profile_once(engine: Path) -> None:
    stand_in = StandIn(engine)
    load(engine, stand_in)
    ends = [(0, 1), (0, 4), (1, 5), (1, 16)]
    expected = {(kind, *end): 1 for kind in ("opening", "middle", "closing") for end in ends}
    assert stand_in.runs == expected | {("head", 0, 1): 1, ("head", 0, 4): 1}


def test_a_single_profile_where_a_step_holds_no_more_than_a_batch(engine: Path, tmp_path: Path) -> None:
    folder = engines.copy(engine, tmp_path / "one", limits={"max_batch_size": 16, "max_num_tokens": 16})
    stand_in = StandIn(folder)
    load(folder, stand_in)
    assert {profile for _, profile, _ in stand_in.runs} == {0}


def test_views_are_copied_to_where_tensorrt_takes_them(engine: Path) -> None:
    """Rows in the middle of a tensor start askew, columns of a wider one have gaps."""
    closing = load(engine).closing
    attention, residual = activations(3, 64, 64)
    askew = empty((4 * 64,), torch.float32, CPU)[16 : 16 + 3 * 64].view(3, 64).copy_(attention)
    gaps = torch.cat((residual, residual), dim=1)[:, 64:]
    assert askew.data_ptr() % ALIGNMENT == 64
    assert not gaps.is_contiguous()
    assert torch.equal(closing(askew, gaps), closing(attention, residual))


def test_what_is_aligned_is_bound_as_it_is() -> None:
    for shape in ((3, 5), (0, 5), ()):
        memory = empty(shape, torch.float16, CPU)
        assert (tuple(memory.shape), memory.dtype, memory.data_ptr() % ALIGNMENT) == (shape, torch.float16, 0)
    assert bindable(memory := empty((4, 4), torch.float32, CPU)) is memory
    assert bindable(memory[1:]).data_ptr() % ALIGNMENT == 0


def test_more_tokens_than_a_plan_takes(engine: Path) -> None:
    segments = load(engine)
    with pytest.raises(EngineError, match=r"segment middle\.1 takes 16 tokens at most, and was given 17"):
        segments.middles[1](*activations(17, 64, 64, 16, 16))
    with pytest.raises(EngineError, match="segment head takes 4 tokens at most, and was given 5"):
        segments.head(torch.zeros(5, 64))


def test_another_dtype(engine: Path) -> None:
    with pytest.raises(EngineError, match=r"segment head takes hidden in torch\.float32, and was given torch\.float16"):
        load(engine).head(torch.zeros(1, 64, dtype=torch.float16))
    with pytest.raises(EngineError, match=r"compute in float32, not in torch\.float16"):
        tensorrt.segments(engine, manifest.read(engine), "8.9", CPU, torch.float16, StandIn(engine))


def test_another_width(engine: Path) -> None:
    with pytest.raises(EngineError, match=r"segment head: TensorRT refused hidden: hidden \(1, 65\) is not within"):
        load(engine).head(torch.zeros(1, 65))


def test_a_failed_enqueue_names_its_segment(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segments = load(engine)
    given = activations(2, 64, 64, 16, 16)
    monkeypatch.setattr(ExecutionContext, "execute_async_v3", lambda self, stream: self._refuse("out of luck"))
    with pytest.raises(EngineError, match=r"segment middle\.1: TensorRT refused its enqueue: out of luck"):
        segments.middles[1](*given)


def test_all_contexts_share_one_scratch_buffer(engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(ExecutionContext, "set_device_memory", lambda self, *memory: given.append(memory))
    with pytest.raises(EngineError, match="the device memory is 0 bytes"):
        load(engines.embed(engine, tmp_path / "embedded"))
    assert len(given) == 4 * 2 + 1  # opening, two middles and closing in two profiles, the head in one
    assert len(set(given)) == 1
    assert given[0][1] >= 16 * ALIGNMENT


@pytest.mark.parametrize(("mode", "wanted"), [("inputs", None), ("embedded", {"embed.weight", "head.weight"})])
def test_only_what_is_bound_is_read(
    mode: str, wanted: set[str] | None, engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = engines.embed(engine, tmp_path / "embedded") if mode == "embedded" else engine
    read: list[set[str]] = []

    def recording(*args: object) -> dict[str, torch.Tensor]:
        tensors = weights_read(*args)  # type: ignore[arg-type]
        read.append(set(tensors))
        return tensors

    weights_read = weights.read
    monkeypatch.setattr(weights, "read", recording)
    monkeypatch.setattr("packager.stand_in.module.weights", type("Own", (), {"read": staticmethod(weights_read)}))
    load(folder)
    everything = set(load_file(next((folder / "weights").iterdir())))
    assert read == [wanted or everything]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"middle wants layers\.1\.o\.weight, which the engine's weights have not"),
        ("shape", r"middle wants layers\.1\.o\.weight as torch\.float32 \[64, 64\].* torch\.float32 \[64, 32\]"),
        ("dtype", r"middle wants layers\.1\.o\.weight as torch\.float32 .* torch\.float16 \[64, 64\]"),
    ],
)
def test_weights_that_a_plan_would_read_beyond_are_refused(change: str, message: str, engine: Path) -> None:
    path = next((engine / "weights").iterdir())
    tensors = load_file(path)
    tensor = tensors.pop("layers.1.o.weight")
    if change != "missing":
        tensors["layers.1.o.weight"] = tensor[:, :32].contiguous() if change == "shape" else tensor.half()
    save_file(tensors, path)
    with pytest.raises(EngineError, match=message):
        load(engines.rewrite(engine))


def test_a_plan_that_tensorrt_does_not_load(engine: Path) -> None:
    path = engine / "plans" / "sm89" / "middle.plan"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(EngineError, match=r"cannot load .*/middle\.plan: engine\.json lists no plan with sha256"):
        load(engine)


def test_kernels_are_compiled_at_the_first_start_only(
    engine: Path, kernels: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first, second = StandIn(engine, compiles=True), StandIn(engine, compiles=True)
    load(engine, first)
    (kept,) = kernels.iterdir()
    assert kept.name.endswith(f"_cpu_none_{first.__version__}.kernels")
    assert first.compiled == 3 * 2 + 1
    content, written = kept.read_bytes(), kept.stat().st_mtime_ns
    load(engine, second)
    assert second.compiled == 0
    assert (kept.read_bytes(), kept.stat().st_mtime_ns) == (content, written)
    assert f"compiled kernels from {kept}" in caplog.text


def test_engines_do_not_share_their_kernels(engine: Path, kernels: Path, tmp_path: Path) -> None:
    other = engines.embed(engine, tmp_path / "other")
    load(engine, StandIn(engine, compiles=True))
    load(other, StandIn(other, compiles=True))
    assert len(list(kernels.iterdir())) == 2


def test_a_broken_cache_is_replaced(engine: Path, kernels: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(engine, StandIn(engine, compiles=True))
    (kept,) = kernels.iterdir()
    content = kept.read_bytes()
    kept.write_bytes(b"nonsense")
    load(engine, again := StandIn(engine, compiles=True))
    assert again.compiled == 7
    assert (list(kernels.iterdir()), kept.read_bytes()) == ([kept], content)
    assert f"{kept} is of no use here" in caplog.text


def test_nowhere_to_keep_kernels_is_no_failure(
    engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRTPACK_CACHE_DIR", str(tmp_path / "file" / "kernels"))
    load(engine, StandIn(engine, compiles=True))
    assert "Compiled kernels are not kept" in caplog.text
    monkeypatch.delenv("TRTPACK_CACHE_DIR")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    load(engine, StandIn(engine, compiles=True))
    assert "set TRTPACK_CACHE_DIR" in caplog.text


def test_tensorrt_keeps_no_cache(engine: Path, kernels: Path, tmp_path: Path) -> None:
    """Its plans hold their kernels, and its module has no runtime cache."""
    backend = manifest.read(engine).backend.model_copy(update={"name": "tensorrt"})
    folder = engines.copy(engine, tmp_path / "tensorrt", backend=backend)
    load(folder, StandIn(folder, compiles=True))
    assert not kernels.exists()


def test_the_protocol_is_the_real_modules() -> None:
    real = pytest.importorskip("tensorrt_rtx")
    classes = {"Runtime": "Runtime", "CudaEngine": "ICudaEngine", "ExecutionContext": "IExecutionContext"}
    classes |= {"RuntimeConfig": "IRuntimeConfig", "RuntimeCache": "IRuntimeCache"}
    for ours, theirs in classes.items():
        protocol = getattr(bindings, ours)
        members = {name for name in {*vars(protocol), *protocol.__annotations__} if not name.startswith("_")}
        assert members and members <= set(dir(getattr(real, theirs))), ours
    assert set(bindings.TensorRT.__annotations__) <= set(dir(real))
    assert hasattr(real.ExecutionContextAllocationStrategy, "USER_MANAGED")
    assert hasattr(real.DynamicShapesKernelSpecializationStrategy, "NONE")
    assert hasattr(real.TensorIOMode, "INPUT")
    assert set(executor.DTYPES) <= set(dir(real.DataType))


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the plan may load")
def test_what_the_real_module_says_is_logged_and_told(engine: Path, caplog: pytest.LogCaptureFixture) -> None:
    real = pytest.importorskip("tensorrt_rtx")
    with pytest.raises(EngineError, match=r"cannot load .*/opening\.plan: .*CUDA"):
        tensorrt.segments(engine, manifest.read(engine), "8.9", CPU, torch.float32, real)
    assert any(record.name == "tensorrt" and record.levelno == logging.ERROR for record in caplog.records)
