"""The TensorRT backends: an engine's plans as the segments of its model."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from time import monotonic

import torch
import torch.nn.functional as F  # noqa: N812

from runtime.engine import plan, runtime_cache, weights
from runtime.engine.bindings import CudaEngine, ExecutionContext, Logger, TensorRT, logger
from runtime.engine.device import probe
from runtime.engine.executor import ALIGNMENT, CompiledSegment, Plan, empty, stored_name, stream
from runtime.engine.manifest import Manifest
from runtime.engine.runtime_cache import KernelCache
from runtime.errors import EngineError
from runtime.model import layout
from runtime.model.decoder import Segments
from runtime.phases import phase

log = logging.getLogger(__name__)


def segments(
    folder: Path,
    manifest: Manifest,
    compute_capability: str,
    device: torch.device,
    dtype: torch.dtype,
    tensorrt: TensorRT,
) -> Segments:
    """Loads the plans for that compute capability and the weights that are bound to them, and warms them up.

    Kernels that are not in the runtime cache are compiled now (tensorrt-rtx). `dtype` is the engine's own: plans know
    no other. The memory of the greatest step stays with torch's allocator: what is free afterwards can be given to the
    KV cache. Raises EngineError.
    """
    started = monotonic()
    if dtype != getattr(torch, manifest.precision.dtype):
        raise EngineError(f"the engine's plans compute in {manifest.precision.dtype}, not in {dtype}")
    messages = logger(tensorrt)
    runtime = tensorrt.Runtime(messages)
    engines: dict[str, CudaEngine] = {}
    for name, _ in plan.parts(manifest.model.config, manifest.weights):
        path = folder / plan.path(compute_capability, name)
        engine = runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise EngineError(f"TensorRT cannot load {path}: {messages.error or 'no reason given'}")
        engines[name] = engine
    cache = _cache(manifest, compute_capability, device, tensorrt)
    plans = _plans(engines, device, cache, tensorrt, messages)
    # A plan serves the segment of its name, or all of its kind.
    pairs = [(one, plans.get(one.name) or plans[one.kind]) for one in layout.segments(manifest.model.config)]
    wanted = {stored_name(one, name) for one, its in pairs for name in its.inputs} | {"embed.weight"}
    with phase("weights"):
        tensors = weights.read(folder, manifest, device, wanted.__contains__)
    compiled = [CompiledSegment(one, its, tensors, device, messages) for one, its in pairs]
    with phase("warm_up"):
        _warm_up(compiled, device)
    if cache:
        cache.save()
    log.info("Loaded %d plans in %.1f s", len(plans), monotonic() - started)
    opening, *middles, closing, head = compiled
    return Segments(partial(F.embedding, weight=tensors["embed.weight"]), opening, middles, closing, head)


def _cache(manifest: Manifest, capability: str, device: torch.device, tensorrt: TensorRT) -> KernelCache | None:
    """For tensorrt-rtx, which compiles kernels here; tensorrt's plans hold them."""
    if manifest.backend.name != "tensorrt-rtx":
        return None
    gpu = probe() if device.type == "cuda" else None
    digests = [manifest.files[path].sha256 for path, _ in plan.paths(manifest, capability)]
    name, driver = (gpu.name, gpu.driver) if gpu else (device.type, "none")
    return KernelCache(runtime_cache.place(digests, name, driver, tensorrt.__version__))


def _plans(
    engines: Mapping[str, CudaEngine],
    device: torch.device,
    cache: KernelCache | None,
    tensorrt: TensorRT,
    messages: Logger,
) -> dict[str, Plan]:
    """One scratch buffer serves all contexts: they run one after another, on one stream."""
    size = max(engine.device_memory_size_v2 for engine in engines.values())
    scratch = empty((max(size, ALIGNMENT),), torch.uint8, device)
    made = {}
    for name, engine in engines.items():
        contexts = []
        for profile in range(engine.num_optimization_profiles):
            context = _context(engine, cache, tensorrt)
            if context is None or not context.set_optimization_profile_async(profile, stream(device)):
                raise EngineError(f"TensorRT cannot prepare the plan {name}: {messages.error or 'no reason given'}")
            context.set_device_memory(scratch.data_ptr(), scratch.nbytes)
            contexts.append(context)
        made[name] = Plan(name, engine, contexts, tensorrt, scratch, cache)
    return made


def _context(engine: CudaEngine, cache: KernelCache | None, tensorrt: TensorRT) -> ExecutionContext | None:
    strategy = tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED
    if cache is None:
        return engine.create_execution_context(strategy)
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(strategy)
    # Each step has another number of tokens. EAGER would hold up every request for a compile at each new one; LAZY
    # would compile up to max_num_tokens variants beside them, and a CUDA graph would keep the kernels of its capture
    # (pytorch/TensorRT #4187). With NONE what the warm-up compiled is all there will be, and the cache holds it all.
    # What the general kernels cost against specialised ones has not been measured.
    config.dynamic_shapes_kernel_specialization_strategy = tensorrt.DynamicShapesKernelSpecializationStrategy.NONE
    cache.attach(config)
    return engine.create_execution_context(config)


def _warm_up(compiled: list[CompiledSegment], device: torch.device) -> None:
    """Each plan once at the ends of its profiles: kernels are compiled and loaded now, and a bad plan tells now."""
    for segment in {id(segment.plan): segment for segment in compiled}.values():
        for tokens in segment.plan.extremes():
            segment.idle(tokens)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
