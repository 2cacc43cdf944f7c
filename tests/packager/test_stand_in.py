"""The stand-in refuses what TensorRT would: a mistake of the executor's does not go unseen."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from packager.stand_in import StandIn
from packager.stand_in.context import ExecutionContext, RuntimeCache
from packager.stand_in.enums import ExecutionContextAllocationStrategy, ILogger, Severity
from packager.stand_in.module import CudaEngine
from runtime.engine import manifest, tensorrt
from runtime.engine import torch as modules
from runtime.engine.executor import ALIGNMENT, empty
from tests import engines
from tests.conftest import TinyEngine
from tests.tiny import VOCAB

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
USER_MANAGED = ExecutionContextAllocationStrategy.USER_MANAGED


class Log(ILogger):
    def __init__(self) -> None:
        self.said: list[str] = []

    def log(self, severity: Severity, msg: str) -> None:
        assert severity is Severity.ERROR
        self.said.append(msg)


@pytest.fixture
def folder(plan_engine: TinyEngine, tmp_path: Path) -> Path:
    return engines.copy(plan_engine(), tmp_path / "engine", limits={"max_batch_size": 4, "max_num_tokens": 16})


@pytest.fixture
def log() -> Log:
    return Log()


def engine(folder: Path, name: str, log: Log) -> CudaEngine:
    loaded = StandIn(folder).Runtime(log).deserialize_cuda_engine((folder / f"plans/sm89/{name}.plan").read_bytes())
    assert loaded is not None
    return loaded


class Head:
    """A head's context, ready to run on two rows; a test takes away or spoils one thing."""

    def __init__(self, folder: Path, log: Log) -> None:
        self.engine = engine(folder, "head", log)
        self.hidden, self.logits = empty((4, 64), torch.float32, CPU), empty((4, VOCAB), torch.float32, CPU)
        self.weight = empty((VOCAB, 64), torch.float32, CPU)
        self.scratch = empty((self.engine.device_memory_size_v2,), torch.uint8, CPU)
        self.hidden.normal_(), self.weight.normal_()
        self.context = self.engine.create_execution_context(USER_MANAGED)
        assert self.context.set_optimization_profile_async(0, 0)
        assert self.context.set_input_shape("hidden", (2, 64))
        self.context.set_device_memory(self.scratch.data_ptr(), self.scratch.nbytes)
        for name in ("hidden", "weight", "logits"):
            assert self.context.set_tensor_address(name, getattr(self, name).data_ptr())


@pytest.fixture
def head(folder: Path, log: Log) -> Head:
    return Head(folder, log)


def test_it_reads_and_writes_where_it_is_told(head: Head) -> None:
    head.logits.fill_(7)
    assert head.context.execute_async_v3(0)
    torch.testing.assert_close(head.logits[:2], head.hidden[:2] @ head.weight.T, rtol=1e-4, atol=1e-4)
    assert (head.logits[2:] == 7).all()
    assert (head.scratch == 255).all(), "the scratch memory is the plan's to spoil"


def test_a_plan_is_described_as_tensorrt_does(folder: Path, log: Log) -> None:
    middle = engine(folder, "middle", log)
    names = [middle.get_tensor_name(index) for index in range(middle.num_io_tensors)]
    assert names[:4] == ["attention", "residual", "cos", "sin"]
    assert names[-4:] == ["next_residual", "query", "key", "value"]
    assert tuple(middle.get_tensor_shape("query")) == (-1, 4, 16)
    assert tuple(middle.get_tensor_shape("previous.o.weight")) == (64, 64)
    assert middle.get_tensor_dtype("previous.o.weight").name == "FLOAT"
    assert [middle.get_tensor_mode(name).name for name in ("cos", "query")] == ["INPUT", "OUTPUT"]
    assert middle.num_optimization_profiles == 2
    assert [list(shape) for shape in middle.get_tensor_profile_shape("cos", 1)] == [[1, 16], [16, 16], [16, 16]]


SPOILED: dict[str, tuple[Callable[[Head], object], str]] = {
    "profile": (lambda head: head.context.set_optimization_profile_async(0, 0), "hidden has no shape"),
    "no memory": (lambda head: head.context.set_device_memory(0, 0), "the device memory is 0 bytes"),
    "little memory": (
        lambda head: head.context.set_device_memory(head.scratch.data_ptr(), head.scratch.nbytes - 1),
        "are needed",
    ),
    "askew memory": (
        lambda head: head.context.set_device_memory(head.scratch.data_ptr() + 8, head.scratch.nbytes),
        "are needed",
    ),
    "output on input": (
        lambda head: head.context.set_tensor_address("logits", head.weight.data_ptr()),
        "logits and weight overlap",
    ),
    "output in scratch": (
        lambda head: head.context.set_tensor_address("logits", head.scratch.data_ptr() + ALIGNMENT),
        "the device memory and logits overlap",
    ),
}


@pytest.mark.parametrize("what", SPOILED)
def test_an_enqueue_that_is_not_prepared(what: str, head: Head, log: Log) -> None:
    spoil, reason = SPOILED[what]
    spoil(head)
    assert not head.context.execute_async_v3(0)
    assert reason in log.said[-1]


def test_an_input_without_an_address(folder: Path, log: Log) -> None:
    context = engine(folder, "head", log).create_execution_context(USER_MANAGED)
    assert context.set_input_shape("hidden", (1, 64))
    assert not context.execute_async_v3(0)
    assert log.said == ["hidden has no address"]


def test_inputs_that_differ_in_tokens(folder: Path, log: Log) -> None:
    closing = engine(folder, "closing", log)
    context = closing.create_execution_context(USER_MANAGED)
    for name, value in (closing.inputs | closing.outputs).items():
        context.set_tensor_address(name, empty(value.at(4), torch.float32, CPU).data_ptr())
    assert context.set_input_shape("attention", (1, 64))
    assert context.set_input_shape("residual", (2, 64))
    assert not context.execute_async_v3(0)
    assert "differ in their tokens" in log.said[-1]


CALLS: dict[str, tuple[Callable[[ExecutionContext], bool], str]] = {
    "profile": (lambda context: context.set_optimization_profile_async(1, 0), "there is no profile 1"),
    "too many": (lambda context: context.set_input_shape("hidden", (5, 64)), "hidden (5, 64) is not within"),
    "none": (lambda context: context.set_input_shape("hidden", (0, 64)), "hidden (0, 64) is not within"),
    "width": (lambda context: context.set_input_shape("hidden", (1, 63)), "hidden (1, 63) is not within"),
    "rank": (lambda context: context.set_input_shape("hidden", (1, 1, 64)), "is not within"),
    "output's shape": (lambda context: context.set_input_shape("logits", (1, VOCAB)), "logits is no input"),
    "unknown": (lambda context: context.set_tensor_address("bias", ALIGNMENT), "bias is neither"),
    "askew": (lambda context: context.set_tensor_address("hidden", ALIGNMENT + 64), "no multiple of 256"),
    "null": (lambda context: context.set_tensor_address("hidden", 0), "hidden is at 0x0"),
}


@pytest.mark.parametrize("what", CALLS)
def test_a_call_that_is_refused(what: str, head: Head, log: Log) -> None:
    call, reason = CALLS[what]
    assert not call(head.context)
    assert reason in log.said[-1]


def test_a_plan_of_another_engine(folder: Path, log: Log) -> None:
    assert StandIn(folder).Runtime(log).deserialize_cuda_engine(b"vtrt") is None
    assert "engine.json lists no plan with sha256" in log.said[0]


def test_a_cache_of_another_version_is_refused() -> None:
    mine, theirs = RuntimeCache("1.7.1.116"), RuntimeCache("1.8.0.1")
    assert bytes(mine.serialize()) == b""
    mine.kernels.add("plan/0")
    assert not theirs.deserialize(bytes(mine.serialize()))
    assert not theirs.kernels
    again = RuntimeCache("1.7.1.116")
    assert again.deserialize(bytes(mine.serialize()))
    assert again.kernels == {"plan/0"}


def test_a_cache_is_tensorrt_rtxs_alone(folder: Path, log: Log, tmp_path: Path) -> None:
    config = engine(folder, "head", log).create_runtime_config()
    assert config.set_runtime_cache(config.create_runtime_cache())
    assert not config.set_runtime_cache(object())
    backend = manifest.read(folder).backend.model_copy(update={"name": "tensorrt"})
    other = engines.copy(folder, tmp_path / "other", backend=backend)
    with pytest.raises(AttributeError, match="only tensorrt_rtx"):
        engine(other, "head", log).create_runtime_config().create_runtime_cache()


def test_without_pretending_it_leaves_the_cache_empty(head: Head) -> None:
    module = head.engine.module
    config = head.engine.create_runtime_config()
    config.set_runtime_cache(cache := config.create_runtime_cache())
    config.set_execution_context_allocation_strategy(USER_MANAGED)
    head.engine.create_execution_context(config)
    assert (module.compiled, bytes(cache.serialize())) == (0, b"")


def test_embedded_plans_take_activations_alone(folder: Path, log: Log, tmp_path: Path) -> None:
    embedded = engines.embed(folder, tmp_path / "embedded")
    assert list(engine(embedded, "middle.1", log).inputs) == ["attention", "residual", "cos", "sin"]
    assert list(engine(embedded, "head", log).inputs) == ["hidden", "weight"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_computed_and_rounded(dtype: str, plan_engine: TinyEngine) -> None:
    """What the stand-in gives is what the module gives, but for the order of sums: a few units in the last place."""
    folder, half = plan_engine(dtype=dtype), getattr(torch, dtype)
    found = manifest.read(folder)
    ours = tensorrt.segments(folder, found, "8.9", CPU, half, StandIn(folder))
    theirs = modules.segments(folder, found, CPU, half)
    attention, residual, cos, sin = (torch.randn(3, width).to(half) for width in (64, 64, 16, 16))
    for mine, other in zip(
        ours.middles[0](attention, residual, cos, sin), theirs.middles[0](attention, residual, cos, sin), strict=True
    ):
        assert mine.dtype == half
        error = (mine.float() - other.float()).norm() / other.float().norm()
        assert 0 < error < 8 * torch.finfo(half).eps
