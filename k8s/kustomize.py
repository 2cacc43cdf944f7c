"""kustomization.yaml: which files belong together, for `kubectl apply -k` and for overlays on top."""

from collections.abc import Iterable

from k8s.text import scalar

FILE = "kustomization.yaml"


def kustomization(files: Iterable[str]) -> str:
    """Its text, for files beside it."""
    lines = ["apiVersion: kustomize.config.k8s.io/v1beta1", "kind: Kustomization", "resources:"]
    return "\n".join([*lines, *(f"  - {scalar(name)}" for name in files)]) + "\n"
