"""Workload in, manifests out: for each file its name and its text, the same for the same workload."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from k8s import nodes, pod, policy
from k8s.names import is_name
from k8s.policy import ManifestError
from k8s.text import Templates
from k8s.workload import Workload

__all__ = ["Manifest", "Workload", "manifests", "render", "values"]

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_SECRET_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}")
_WAITING = "trtpack_num_requests_waiting"  # runtime/metrics.py
# Where Google's load balancers come from (docs.cloud.google.com/load-balancing/docs/firewall-rules), and where the
# collectors of its managed Prometheus run.
_GOOGLE_BLOCKS = ("35.191.0.0/16", "130.211.0.0/22")
_GMP_NAMESPACE = "gke-gmp-system"


@dataclass(frozen=True)
class Manifest:
    """One file: its `name`, the template that it is made of, and what the template is filled with."""

    name: str
    template: str
    workload: Workload
    context: Mapping[str, Any]


def render(workload: Workload) -> dict[str, str]:
    """File name to YAML text, in the order to apply them. Raises ManifestError before anything is written."""
    _check(workload)
    templates = Templates()
    texts = {
        each.name: templates.text(each.template, {**each.context, "v": values(each.workload)})
        for each in manifests(workload)
    }
    policy.check([yaml.safe_load(text) for text in texts.values()])
    return texts


def values(workload: Workload) -> dict[str, str | int]:
    """What one changes from one installation to the next."""
    names = ("image", "replicas", "cpu", "memory", "ephemeral_storage")
    return {name: getattr(workload, name) for name in names}


def manifests(w: Workload) -> Iterator[Manifest]:
    """The files of a workload; `v`, its values, is left to whoever fills the templates."""
    yield from (_manifest(w, name) for name in _before(w))
    several = w.deployments()
    for each in several:
        suffix = each.name.removeprefix(w.name)
        yield _manifest(each, "deployment" if w.group_size == 1 else "leaderworkerset", suffix, pod.context(each))
    yield from (_manifest(w, name) for name in _after(w))
    if w.autoscale:
        name = {"hpa": "horizontalpodautoscaler", "keda": "scaledobject"}[w.autoscale.scaler]
        for each in several:
            yield _manifest(each, name, each.name.removeprefix(w.name))


def _before(w: Workload) -> Iterator[str]:
    if w.namespace and w.create_namespace:
        yield "namespace"
    if w.service_account and w.service_account.create:
        yield "serviceaccount"


def _after(w: Workload) -> Iterator[str]:
    yield "service"
    if w.disruption_budget:
        yield "poddisruptionbudget"
    if w.allowed_namespaces is not None:
        yield "networkpolicy"
    if w.monitoring:
        yield {"gmp": "podmonitoring", "prometheus": "servicemonitor"}[w.monitoring]
    if w.route:
        yield {"gateway": "httproute", "ingress": "ingress"}[w.route.kind]
        if _google_gateway(w):
            yield from ("gcpbackendpolicy", "healthcheckpolicy")


def _manifest(w: Workload, template: str, suffix: str = "", more: Mapping[str, Any] | None = None) -> Manifest:
    context = {
        "w": w,
        "labels": _labels(w),
        "selector": _selector(w),
        "health_path": pod.HEALTH_PATH,
        "target": _TARGETS[w.group_size > 1],
        "metric": _metric(w),
        "parent": _parent(w),
        "namespaces_in": list(_namespaces_in(w)),
        "blocks_in": _GOOGLE_BLOCKS if _google_gateway(w) else (),
    }
    return Manifest(f"{template}{suffix}.yaml", template, w, context | dict(more or {}))


_TARGETS = (
    {"api_version": "apps/v1", "kind": "Deployment"},
    {"api_version": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet"},
)


def _google_gateway(w: Workload) -> bool:
    return w.route is not None and w.route.kind == "gateway" and w.nodes.labels == "gke"


def _parent(w: Workload) -> dict[str, str]:
    namespace, _, name = w.route.parent.rpartition("/") if w.route else ("", "", "")
    return {"namespace": namespace, "name": name}


def _namespaces_in(w: Workload) -> Iterator[str]:
    yield from sorted(set(w.allowed_namespaces or ()) | {_parent(w)["namespace"]} - {""})
    if w.monitoring == "gmp":
        yield _GMP_NAMESPACE


def _metric(w: Workload) -> str:
    """The queue's name to an HPA's adapter, or KEDA's question for it."""
    if w.autoscale and w.autoscale.scaler == "keda":
        inside = f'namespace="{w.namespace}",' if w.namespace else ""
        pods = "[0-9a-z]+-[0-9a-z]+" if w.group_size == 1 else "[0-9]+"  # of a group its leader
        return f'sum({_WAITING}{{{inside}pod=~"{w.name}-{pods}"}})'
    if w.autoscale and w.autoscale.metrics == "gmp":
        return f"prometheus.googleapis.com|{_WAITING}|gauge"
    return _WAITING


def _check(w: Workload) -> None:
    """Raises ManifestError for what the policies cannot see in the manifests."""
    if not is_name(w.name):
        raise ManifestError(f"{w.name!r} is not a Kubernetes name: lower case, digits and dashes, first a letter")
    for each in w.deployments():
        for problem in nodes.problems(each.gpu, each.gpu_count, each.nodes) if each.gpu else ():
            raise ManifestError(problem)
        if not each.gpu and each.gpu_count:
            raise ManifestError(f"gpu_count is {each.gpu_count} but no GPU type is named")
    for name in (*w.env, *w.secret_env):
        if not _ENV_NAME.fullmatch(name):
            raise ManifestError(f"{name!r} is not a name for an environment variable")
    if both := sorted(set(w.env) & set(w.secret_env)):
        raise ManifestError(f"the variable {both[0]} has a value and is read from a secret; keep one")
    for name in w.secrets:
        if not _SECRET_NAME.fullmatch(name) or name in {".", ".."}:
            raise ManifestError(f"{name!r} is not a name for a secret: letters, digits, '.', '_' and '-'")
    if taken := sorted(set(w.labels) & set(_own_labels(w) | _INSTANCE)):
        raise ManifestError(f"the label {taken[0]} is trtpack's own; name yours differently")
    if w.autoscale and w.autoscale.scaler == "keda" and not w.autoscale.server:
        raise ManifestError("KEDA asks a Prometheus: name its address")


_INSTANCE = {"app.kubernetes.io/instance": ""}


def _own_labels(w: Workload) -> dict[str, str]:
    version = {"app.kubernetes.io/version": w.version} if w.version else {}
    return _selector(w) | {"app.kubernetes.io/managed-by": "trtpack"} | version


def _labels(w: Workload) -> dict[str, str]:
    return _own_labels(w) | dict(sorted(w.labels.items()))


def _selector(w: Workload) -> dict[str, str]:
    """What the pods of the whole have in common, and of one of several Deployments its name besides."""
    whole = {"app.kubernetes.io/name": w.app}
    return whole | ({"app.kubernetes.io/instance": w.name} if w.part_of else {})
