"""What an apply changes, as a person would read it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import unified_diff

import yaml

from k8s.deploy import removal
from k8s.deploy.cluster import Cluster, Document
from k8s.deploy.documents import named
from k8s.deploy.errors import ClusterError

# What the API server keeps about an object, not in it.
_KEPT = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink")
_STAY = frozenset({"Job", "ServiceAccount", "ConfigMap", "PersistentVolumeClaim"})


@dataclass(frozen=True)
class Change:
    """An object before and after; `before` is None where there was none, `after` where there is none any more."""

    before: Document | None
    after: Document | None

    @property
    def verb(self) -> str:
        if self.before is None:
            return "created"
        if self.after is None:
            return "deleted"
        return "unchanged" if _clean(self.before) == _clean(self.after) else "changed"

    @property
    def name(self) -> str:
        return named(self.after or self.before or {})

    def diff(self) -> str:
        """A unified diff of YAML, from what is there to what would be; "" where nothing changes."""
        old, new = (_lines(each) for each in (self.before, self.after))
        return "".join(unified_diff(old, new, f"{self.name} (in the cluster)", f"{self.name} (to be)"))


def apply(cluster: Cluster, documents: Sequence[Document], dry_run: bool = False) -> Iterator[Change]:
    """Applies one after the other, or with `dry_run` asks the API server what that would do. Raises ClusterError."""
    new_namespaces: set[str] = set()
    for each in documents:
        before = cluster.get(each)
        document = _scaled(each, before)
        if dry_run and document["metadata"].get("namespace") in new_namespaces:
            # The API server tries nothing in a namespace that it was only asked about.
            yield Change(before, document)
            continue
        try:
            yield Change(before, cluster.apply(document, dry_run))
        except ClusterError as error:
            raise ClusterError(f"{named(document)}: {error.message}", error.hint, error.status) from error
        if document["kind"] == "Namespace" and before is None:
            new_namespaces.add(document["metadata"]["name"])


def _scaled(document: Document, before: Document | None) -> Document:
    """With as many replicas as there are, where an autoscaler is to set them.

    Left out, a number that an earlier apply had set would fall to 1, and pods with it
    (kubernetes.io/docs/reference/using-api/server-side-apply, "Transferring ownership").
    """
    if before is None or document["kind"] != "Deployment" or "replicas" in document["spec"]:
        return document
    return document | {"spec": document["spec"] | {"replicas": before["spec"]["replicas"]}}


def prune(cluster: Cluster, documents: Sequence[Document], dry_run: bool = False) -> Iterator[Change]:
    """Removes what an earlier apply left under the same name, and these documents no longer hold.

    Such as the Deployment of a GPU type that is no longer asked for, which would keep its GPUs. Identities and data
    stay: others may use them by now. Raises ClusterError.
    """
    kept = {(each["kind"], each["metadata"]["name"]) for each in documents}
    for namespace, name in sorted({place for each in documents if (place := removal.place(each))}):
        for each in removal.applied(cluster, namespace, name):
            if each["kind"] not in _STAY and (each["kind"], each["metadata"]["name"]) not in kept:
                if not dry_run:
                    cluster.delete(each)
                yield Change(each, None)


def _clean(document: Document) -> Document:
    metadata = {key: value for key, value in document["metadata"].items() if key not in _KEPT}
    return {key: value for key, value in document.items() if key != "status"} | {"metadata": metadata}


def _lines(document: Document | None) -> list[str]:
    if document is None:
        return []
    return yaml.safe_dump(_clean(document), sort_keys=True, allow_unicode=True, width=120).splitlines(keepends=True)
