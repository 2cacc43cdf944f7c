"""What the template of a pod is filled with: its environment, its mounts, and where it may run."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from k8s import nodes
from k8s.workload import Engine, Workload

DRIVER_LIBRARIES = "/usr/local/nvidia/lib64"
HEALTH_PATH = "/v1/models/model"
# Where the image's package is (templates/docker/Dockerfile.j2), and the file without which a folder is no engine.
ENGINE_FOLDER, SENTINEL = "/app/engine", "engine.json"
_CACHE, _REGISTRY = "/cache", "/registry"


@dataclass(frozen=True)
class Mount:
    name: str
    path: str
    read_only: bool = False
    sub_path: str = ""


def context(w: Workload) -> dict[str, Any]:
    """The names that templates/k8s/pod.yaml.j2 knows besides the workload itself."""
    return {
        "node_selector": (nodes.node_selector(w.gpu, w.nodes) if w.gpu else dict(sorted(w.nodes.selector.items()))),
        "node_terms": nodes.node_terms(w.gpu, w.nodes) if w.gpu else [],
        "tolerations": nodes.tolerations(w.gpu, w.nodes) if w.gpu else [],
        "env": _env(w),
        "mounts": list(_mounts(w)),
        "has_cache": _has_cache(w),
        # NCCL's ranks exchange through it where they have no NVLink; NVIDIA's own examples give a rank 1 GiB
        # (docs.nvidia.com/deeplearning/nccl/user-guide, "Docker": --shm-size=1g).
        "shm_size": f"{max(w.gpu_count, 1)}Gi",
        "init_command": _init_command(w.engine) if w.engine else (),
        "health_path": HEALTH_PATH,
    }


def _has_cache(w: Workload) -> bool:
    return w.cache_claim is not None or (w.engine is not None and w.engine.is_pulled)


def _env(w: Workload) -> dict[str, str]:
    env = dict(sorted(w.env.items())) | {"INFERENCE_SERVER_PORT": str(w.port)}
    if w.gpu:
        # GKE mounts the driver here, and no container toolkit tells the loader.
        env["LD_LIBRARY_PATH"] = ":".join(filter(None, (env.get("LD_LIBRARY_PATH"), DRIVER_LIBRARIES)))
    if w.engine and w.engine.is_pulled:
        env["TRTPACK_ENGINE_SOURCE"] = w.engine.source
    if _has_cache(w):
        env["TRTPACK_CACHE_DIR"] = _CACHE
    if w.engine and w.engine.registry_secret:
        env["DOCKER_CONFIG"] = _REGISTRY
    return {name: _literal(value) for name, value in env.items()}


def _mounts(w: Workload) -> Iterator[Mount]:
    yield Mount("tmp", "/tmp")
    if w.gpu:
        yield Mount("shm", "/dev/shm")
    if _has_cache(w):
        yield Mount("cache", _CACHE)
    if w.engine and not w.engine.is_pulled:
        yield Mount("engine", ENGINE_FOLDER, read_only=True, sub_path=w.engine.path)
    if w.engine and w.engine.registry_secret:
        yield Mount("registry", _REGISTRY, read_only=True)
    if w.secrets:
        yield Mount("secrets", "/secrets", read_only=True)


def _init_command(engine: Engine) -> tuple[str, ...]:
    """What runs before the server: the pull, or the check that a volume holds what it should.

    An image volume can be mounted empty, with no error, by a runtime that does not know it (k3s#14323).
    """
    if engine.how == "pull":
        return ()
    if engine.how == "init":
        return ("python", "-m", "runtime.registry")
    empty = {
        "claim": f"no {SENTINEL} in the folder {engine.path or '/'} of the PersistentVolumeClaim {engine.source}",
        "volume": f"no {SENTINEL} in the image volume {engine.source}: it holds no engine, or this node's container "
        "runtime mounts no image volumes",
    }[engine.how]
    return ("sh", "-c", 'test -f "$1" || { echo "$2" >&2; exit 1; }', "sh", f"{ENGINE_FOLDER}/{SENTINEL}", empty)


def _literal(value: str) -> str:
    """Escaped where Kubernetes would expand: it reads $(NAME) in a value as a reference and $$ as one dollar."""
    return re.sub(r"\$(?=[$(])", "$$", value)
