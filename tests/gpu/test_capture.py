"""The executor on CUDA: a decode step captured in a graph, replayed on other inputs, gives what it gives without.

No GPU that TensorRT-RTX runs on is needed: in its place stands a module that runs the model's own PyTorch segments,
on the current stream, over the addresses that the executor bound. It needs the runtime's packages alone:

    python -m pytest --noconftest tests/gpu
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call

from runtime.engine import manifest as manifests
from runtime.engine import plan, tensorrt
from runtime.engine.executor import ALIGNMENT
from runtime.engine.manifest import Backend, File, Limits, Manifest, Model, Precision, Target
from runtime.errors import EngineError
from runtime.model import layout
from runtime.model.config import ModelConfig, RopeConfig
from runtime.model.decoder import Decoder, Segments

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

CONFIG = ModelConfig(
    hidden_size=256,
    intermediate_size=512,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    vocab_size=1000,
    rms_norm_eps=1e-5,
    max_position_embeddings=512,
    rope=RopeConfig(),
    windows=(None,) * 4,
)
LIMITS = Limits(max_model_len=128, max_batch_size=8, max_num_tokens=64)
DEVICE = torch.device("cuda")
TYPES = {torch.float16: ("HALF", "<f2"), torch.float32: ("FLOAT", "<f4")}


def memory(address: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """What lies at that address, without a copy."""
    interface = {"data": (address, False), "shape": tuple(shape), "typestr": TYPES[dtype][1], "version": 3}
    return torch.as_tensor(SimpleNamespace(__cuda_array_interface__=interface))


class Mode(Enum):
    INPUT = 1
    OUTPUT = 2


class Strategy(Enum):
    USER_MANAGED = 2
    NONE = 3


class Context:
    """Runs the segment when it is enqueued, on the stream that it is told."""

    def __init__(self, engine: "Engine") -> None:
        self.engine = engine
        self.tokens = 0
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.profile = self.engine.profiles[profile_index]
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % ALIGNMENT == 0 and size >= self.engine.device_memory_size_v2
        self.scratch = memory, size

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.tokens = shape[0]
        return self.profile[0] <= self.tokens <= self.profile[-1]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return memory % ALIGNMENT == 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle == torch.cuda.current_stream().cuda_stream
        engine = self.engine
        at = {name: memory(self.addresses[name], self.shape(name), engine.dtype) for name in engine.shapes}
        # What a plan leaves in its scratch memory, while the segments share it.
        memory(self.scratch[0], [self.scratch[1] // 4], torch.float32).fill_(float("nan"))
        given = tuple(at[name] for name in layout.INPUTS[engine.kind])
        outputs = functional_call(engine.module, {name: at[name] for name in engine.weights}, given)
        for name, output in zip(engine.outputs, outputs if isinstance(outputs, tuple) else (outputs,), strict=True):
            at[name].copy_(output)
        return True

    def shape(self, name: str) -> list[int]:
        return [self.tokens if size == -1 else size for size in self.engine.shapes[name]]


class Engine:
    """The plan of a kind of segment; its file holds the kind's name."""

    device_memory_size_v2 = 1 << 16

    def __init__(self, kind: layout.Kind, dtype: torch.dtype) -> None:
        self.kind, self.dtype = kind, dtype
        with torch.device("meta"):
            segments = Decoder(CONFIG).to(dtype).requires_grad_(False).eval().segments()
        modules: Mapping[str, Any] = {
            "opening": segments.opening,
            "middle": segments.middles[0],
            "closing": segments.closing,
            "head": segments.head,
        }
        self.module: nn.Module = modules[kind]
        self.weights = next(found.weights for found in layout.segments(CONFIG) if found.kind == kind)
        self.outputs = layout.OUTPUTS[kind]
        decode, mixed = (1, LIMITS.max_batch_size), (1, LIMITS.max_num_tokens)
        self.profiles = [decode] if kind == "head" else [decode, mixed]
        width = {"attention": CONFIG.q_size, "cos": CONFIG.head_dim, "sin": CONFIG.head_dim}
        self.shapes: dict[str, tuple[int, ...]] = {
            name: (-1, width.get(name, CONFIG.hidden_size)) for name in layout.INPUTS[kind]
        }
        self.shapes |= {name: tuple(self.module.get_parameter(name).shape) for name in self.weights}
        heads = {"query": CONFIG.num_heads, "key": CONFIG.num_kv_heads, "value": CONFIG.num_kv_heads}
        for name in self.outputs:
            last = CONFIG.vocab_size if name == "logits" else CONFIG.hidden_size
            self.shapes[name] = (-1, heads[name], CONFIG.head_dim) if name in heads else (-1, last)

    @property
    def num_io_tensors(self) -> int:
        return len(self.shapes)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_mode(self, name: str) -> Mode:
        return Mode.OUTPUT if name in self.outputs else Mode.INPUT

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=TYPES[self.dtype][0])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        least, most = self.profiles[profile_index]
        return [(tokens, *self.shapes[name][1:]) for tokens in (least, most, most)]

    def create_runtime_config(self) -> SimpleNamespace:
        return SimpleNamespace(
            set_execution_context_allocation_strategy=lambda strategy: None,
            create_runtime_cache=lambda: SimpleNamespace(deserialize=lambda blob: True, serialize=lambda: b"kernels"),
            set_runtime_cache=lambda cache: True,
        )

    def create_execution_context(self, how: object) -> Context:
        return Context(self)


class Fake:
    """The module."""

    __version__ = "0"
    ILogger = object
    TensorIOMode = Mode
    ExecutionContextAllocationStrategy = Strategy
    DynamicShapesKernelSpecializationStrategy = Strategy

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def Runtime(self, logger: object) -> SimpleNamespace:  # noqa: N802
        def load(plan: bytes) -> Engine:
            return Engine(plan.decode(), self.dtype)  # type: ignore[arg-type]

        return SimpleNamespace(deserialize_cuda_engine=load)


def make_engine(folder: Path, dtype: torch.dtype) -> Manifest:
    """Random weights, and a plan for each kind of segment."""
    torch.manual_seed(0)
    tensors = {}
    for name, shape in layout.weights(CONFIG):
        random = torch.randn(shape) / shape[-1] ** 0.5
        tensors[name] = (random if len(shape) == 2 else torch.rand(shape) + 0.5).to(dtype)
    (folder / "weights").mkdir(parents=True)
    save_file(tensors, folder / "weights" / "model-00001.safetensors")
    for name, _ in plan.parts(CONFIG, "inputs"):
        path = folder / plan.path("9.0", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    files = {
        path.relative_to(folder).as_posix(): File(size=path.stat().st_size, sha256=manifests.sha256(path))
        for path in folder.rglob("*")
        if path.is_file()
    }
    return Manifest(
        trtpack_version="0",
        model=Model(architecture="LlamaForCausalLM", source="random", config=CONFIG),
        backend=Backend(name="tensorrt-rtx", version="0", torch=torch.__version__),
        targets=(Target(gpu="nvidia-h100-80gb", compute_capability="9.0"),),
        precision=Precision(dtype="float16" if dtype == torch.float16 else "float32"),
        limits=LIMITS,
        files=files,
    )


@pytest.fixture(params=[torch.float16, torch.float32], ids=str)
def loaded(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Segments, Segments]:
    """The executor's segments, and the modules themselves."""
    monkeypatch.setenv("TRTPACK_CACHE_DIR", str(tmp_path / "kernels"))
    dtype = request.param
    found = make_engine(tmp_path / "engine", dtype)
    ours = tensorrt.segments(tmp_path / "engine", found, "9.0", DEVICE, dtype, Fake(dtype))
    assert len(list((tmp_path / "kernels").iterdir())) == 1
    from runtime.engine import weights

    return ours, Decoder.load(CONFIG, weights.read(tmp_path / "engine", found, DEVICE)).segments()


def attend(layer: int, query: Tensor, key: Tensor, value: Tensor, /) -> Tensor:
    """Not attention, but all of its inputs, in its outputs' shape."""
    shared = CONFIG.num_heads // CONFIG.num_kv_heads
    return (query + (key * 0.5 + value).repeat_interleave(shared, dim=1)).flatten(1) * 0.1


def step(segments: Segments, tokens: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return segments.head(segments.hidden(tokens, cos, sin, attend))


def inputs(seed: int, tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    angles = torch.randn(tokens, CONFIG.head_dim, device=DEVICE)
    ids = torch.randint(CONFIG.vocab_size, (tokens,), device=DEVICE)
    return ids, angles.cos().to(dtype), angles.sin().to(dtype)


def dtype_of(segments: Segments) -> torch.dtype:
    return segments.embed(torch.zeros(1, dtype=torch.int64, device=DEVICE)).dtype


@torch.inference_mode()
def test_a_captured_decode_step_replays_on_other_inputs(loaded: tuple[Segments, Segments]) -> None:
    ours, modules = loaded
    dtype = dtype_of(ours)
    held = inputs(1, LIMITS.max_batch_size, dtype)
    warm = torch.cuda.Stream()  # as torch asks before a capture
    warm.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm):
        step(ours, *held)
    torch.cuda.current_stream().wait_stream(warm)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(ours, *held)
    previous = None
    for seed in (2, 3):
        other = inputs(seed, LIMITS.max_batch_size, dtype)
        for buffer, value in zip(held, other, strict=True):
            buffer.copy_(value)
        graph.replay()
        got = captured.clone()
        eager = step(ours, *other)
        torch.testing.assert_close(got, eager, rtol=0, atol=0)
        torch.testing.assert_close(got, step(modules, *other), rtol=1e-2, atol=1e-2)
        assert previous is None or not torch.equal(previous, got)
        previous = got


@torch.inference_mode()
@pytest.mark.parametrize("tokens", [1, 8, 9, 64])
def test_both_profiles_give_what_the_modules_give(tokens: int, loaded: tuple[Segments, Segments]) -> None:
    ours, modules = loaded
    given = inputs(tokens, tokens, dtype_of(ours))
    hidden, expected = ours.hidden(*given, attend), modules.hidden(*given, attend)
    torch.testing.assert_close(hidden, expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(ours.head(hidden[-1:]), modules.head(expected[-1:]), rtol=1e-2, atol=1e-2)
    with pytest.raises(EngineError, match="takes 64 tokens at most"):
        ours.hidden(*inputs(0, 65, dtype_of(ours)), attend)


@torch.inference_mode()
def test_a_step_waits_for_nothing(loaded: tuple[Segments, Segments]) -> None:
    ours, _ = loaded
    given = inputs(1, LIMITS.max_batch_size, dtype_of(ours))
    step(ours, *given)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(ours, *given)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@torch.inference_mode()
def test_rows_that_start_askew_are_copied(loaded: tuple[Segments, Segments]) -> None:
    ours, modules = loaded
    rows = torch.randn(8 * CONFIG.hidden_size + 1, device=DEVICE).to(dtype_of(ours))[1:].view(8, -1)
    assert rows.data_ptr() % ALIGNMENT
    torch.testing.assert_close(ours.head(rows), modules.head(rows), rtol=1e-2, atol=1e-2)


@torch.inference_mode()
def test_steps_on_another_stream_are_in_its_order(loaded: tuple[Segments, Segments]) -> None:
    """As the engine's thread does, on a stream that is not the default one."""
    ours, modules = loaded
    given = inputs(5, LIMITS.max_batch_size, dtype_of(ours))
    expected = step(modules, *given)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        results = [step(ours, *given) for _ in range(20)]
    stream.synchronize()
    for result in results:
        torch.testing.assert_close(result, expected, rtol=1e-2, atol=1e-2)
