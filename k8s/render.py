"""Workload in, manifests out: the Deployment and Service of one model on one GPU type."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import yaml

from k8s import gpus, policy
from k8s.gpus import Gpu
from k8s.names import is_name
from k8s.policy import ManifestError

FILES = ("deployment.yaml", "service.yaml")
DRIVER_LIBRARIES = "/usr/local/nvidia/lib64"

# The oldest "default" driver branch on GKE (1.28 to 1.33, Container-Optimized OS); newer ones come with "latest".
GKE_DEFAULT_DRIVER = 535

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_SECRET_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}")
_PLAIN = re.compile(r"[A-Za-z/]([A-Za-z0-9._/@:-]*[A-Za-z0-9])?")
# Words that some YAML 1.1 reader, Go's or Python's, takes for a boolean or null.
_YAML_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One model to serve. Quantities are Kubernetes' ("4", "500m", "16Gi"); times are seconds.

    `name` is an RFC 1035 label (k8s.names.slug makes one); `namespace` None leaves the choice to kubectl.
    `gpu_count` is GPUs a pod, 0 without a `gpu`. `secrets` are keys of the Secret `{name}-secrets`, which the pod
    reads as files under /secrets; their values are never part of a manifest. `load_seconds` bounds a start, from the
    first process to ready; `grace_seconds` a stop, from the drain to the kill.
    """

    name: str
    image: str
    namespace: str | None = None
    version: str | None = None
    replicas: int = 1
    gpu: Gpu | None = None
    gpu_count: int = 0
    cpu: str = "1"
    memory: str = "2Gi"
    ephemeral_storage: str = "10Gi"
    port: int = 8080
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    secrets: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    load_seconds: int = 1800
    drain_seconds: int = 10
    grace_seconds: int = 130


def render(workload: Workload) -> dict[str, str]:
    """File name to YAML text, the same text for the same workload. Raises ManifestError before anything is written."""
    _check(workload)
    context = {
        "w": workload,
        "labels": _labels(workload),
        "node_selector": _node_selector(workload.gpu) if workload.gpu else {},
        "env": _env(workload),
    }
    texts = {name: _TEMPLATES.get_template(f"{name}.j2").render(context) for name in FILES}
    policy.check(*(yaml.safe_load(text) for text in texts.values()))
    return texts


def scalar(value: object) -> str:
    """One value as a YAML scalar: plain where every reader takes it for a string, quoted otherwise."""
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _YAML_WORDS:
        return text
    quoted: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=float("inf"))
    return quoted.rstrip("\n")


# `finalize` makes every expression of a template one YAML scalar: no value can be read as structure.
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parents[1] / "templates" / "k8s"),
    undefined=jinja2.StrictUndefined,
    finalize=scalar,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def _check(workload: Workload) -> None:
    """Raises ManifestError for what the policies cannot see in the manifests."""
    w = workload
    if not is_name(w.name):
        raise ManifestError(f"{w.name!r} is not a Kubernetes name: lower case, digits and dashes, first a letter")
    if w.gpu and w.gpu_count not in gpus.counts(w.gpu):
        allowed = ", ".join(map(str, gpus.counts(w.gpu)))
        raise ManifestError(f"{w.gpu_count} GPUs a pod do not fit the machines with {w.gpu.name}; allowed: {allowed}")
    if not w.gpu and w.gpu_count:
        raise ManifestError(f"gpu_count is {w.gpu_count} but no GPU type is named")
    for name in w.env:
        if not _ENV_NAME.fullmatch(name):
            raise ManifestError(f"{name!r} is not a name for an environment variable")
    for name in w.secrets:
        if not _SECRET_NAME.fullmatch(name) or name in {".", ".."}:
            raise ManifestError(f"{name!r} is not a name for a secret: letters, digits, '.', '_' and '-'")
    if taken := sorted(set(w.labels) & set(_own_labels(w))):
        raise ManifestError(f"the label {taken[0]} is trtpack's own; name yours differently")


def _own_labels(workload: Workload) -> dict[str, str]:
    own = {"app.kubernetes.io/name": workload.name, "app.kubernetes.io/managed-by": "trtpack"}
    return own | ({"app.kubernetes.io/version": workload.version} if workload.version else {})


def _labels(workload: Workload) -> dict[str, str]:
    return _own_labels(workload) | dict(sorted(workload.labels.items()))


def _node_selector(gpu: Gpu) -> dict[str, str]:
    selector: dict[str, str] = {}
    if gpu.gke_label is None:
        selector["nvidia.com/gpu.product"] = gpu.gfd_product
    else:
        selector["cloud.google.com/gke-accelerator"] = gpu.gke_label
        if gpu.min_driver > GKE_DEFAULT_DRIVER:
            selector["cloud.google.com/gke-gpu-driver-version"] = "latest"
    if gpu.arch != "amd64":
        selector["kubernetes.io/arch"] = gpu.arch
    return selector


def _env(workload: Workload) -> dict[str, str]:
    env = dict(sorted(workload.env.items())) | {"INFERENCE_SERVER_PORT": str(workload.port)}
    if workload.gpu:
        # GKE mounts the driver here, and no container toolkit tells the loader.
        env["LD_LIBRARY_PATH"] = ":".join(filter(None, (env.get("LD_LIBRARY_PATH"), DRIVER_LIBRARIES)))
    return {name: _literal(value) for name, value in env.items()}


def _literal(value: str) -> str:
    """Escaped where Kubernetes would expand: it reads $(NAME) in a value as a reference and $$ as one dollar."""
    return re.sub(r"\$(?=[$(])", "$$", value)
