"""Rendered files as documents, in the order in which a cluster needs them."""

from collections.abc import Iterable, Mapping

import yaml

from k8s.deploy.cluster import Document

# What others name comes before those others.
_FIRST = ("Namespace", "ServiceAccount", "ConfigMap", "PersistentVolumeClaim", "Service")


def documents(files: Mapping[str, str], namespace: str) -> list[Document]:
    """The objects of `files` (name to YAML text), each in `namespace` unless it names its own.

    What only kustomize reads is left out. A kind without namespaces is given one too: the API server ignores it.
    """
    found = [document for text in files.values() for document in yaml.safe_load_all(text) if document]
    objects = [each for each in found if not each["apiVersion"].startswith("kustomize.config.k8s.io/")]
    for each in objects:
        if each["kind"] != "Namespace":
            each["metadata"].setdefault("namespace", namespace)
        _spell(each)
    return sorted(objects, key=lambda each: _FIRST.index(each["kind"]) if each["kind"] in _FIRST else len(_FIRST))


def _spell(value: object) -> None:
    """Quantities as text: server-side apply of older releases (seen in 1.20) refuses a number there."""
    for each in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
        _spell(each)
    if isinstance(value, dict) and isinstance(resources := value.get("resources"), dict):
        for kind in {"requests", "limits"} & resources.keys():
            resources[kind] = {name: str(amount) for name, amount in resources[kind].items()}


def named(document: Document) -> str:
    """As kubectl names it: "deployment/tiny"."""
    return f"{document['kind'].lower()}/{document['metadata']['name']}"


def of_kind(found: Iterable[Document], kind: str) -> list[Document]:
    return [document for document in found if document["kind"] == kind]


def pod_spec(document: Document) -> Document:
    spec: Document = document["spec"]["template"]["spec"]
    return spec
