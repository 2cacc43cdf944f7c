"""Fields that are right, and that nothing here acts on: a package that sets one is told so."""

from collections.abc import Iterator
from typing import Any

from packager.config.package import PackageConfig

_BASETEN = "only Baseten's platform reads it; ignored"
_LATER = "this version does not act on it yet; ignored"
_REASONS = {
    "bdn": _BASETEN,
    "bis_llm": _BASETEN,
    "cache_internal": _BASETEN,
    "training_checkpoints": _BASETEN,
    "weights": _BASETEN,
    "base_image.docker_auth": f"{_BASETEN}: log in to the registry with docker login",
    "resources.instance_type": f"{_BASETEN}: set cpu, memory and accelerator",
    "runtime.oidc": _BASETEN,
    "runtime.remote_ssh": _BASETEN,
    "runtime.truss_server_version_override": _BASETEN,
    "build.arguments": _LATER,
    "build.model_server": _LATER,
    "build.secret_to_path_mapping": _LATER,
    "docker_server": _LATER,
    "live_reload": _LATER,
    "model_cache": _LATER,
    "resources.fabric": _LATER,
    "resources.node_count": "render makes a LeaderWorkerSet of it; this version's engine uses one node of each",
    "runtime.egress_restrictions": _LATER,
    "runtime.enable_debug_logs": _LATER,
    "runtime.enable_tracing_data": _LATER,
    "runtime.health_checks.restart_check_delay_seconds": _LATER,
    "runtime.health_checks.restart_threshold_seconds": _LATER,
    "runtime.health_checks.stop_traffic_threshold_seconds": _LATER,
    "runtime.is_websocket_endpoint": _LATER,
    "runtime.transport": _LATER,
    "use_local_src": _LATER,
}


def unserved(config: PackageConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """The path of each such field that is set to something else than its default, and why it does nothing."""
    default = PackageConfig()
    for name, reason in _REASONS.items():
        path = tuple(name.split("."))
        if _at(config, path) != _at(default, path):
            yield path, reason


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        value = getattr(value, name, None)
    return value
