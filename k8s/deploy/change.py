"""What an apply changes, as a person would read it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import unified_diff

import yaml

from k8s.deploy.cluster import Cluster, Document
from k8s.deploy.documents import named
from k8s.deploy.errors import ClusterError

# What the API server keeps about an object, not in it.
_KEPT = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink")


@dataclass(frozen=True)
class Change:
    """An object before and after an apply; `before` is None where there was none."""

    before: Document | None
    after: Document

    @property
    def verb(self) -> str:
        if self.before is None:
            return "created"
        return "unchanged" if _clean(self.before) == _clean(self.after) else "changed"

    @property
    def name(self) -> str:
        return named(self.after)

    def diff(self) -> str:
        """A unified diff of YAML, from what is there to what would be; "" where nothing changes."""
        old, new = (_lines(each) for each in (self.before, self.after))
        return "".join(unified_diff(old, new, f"{self.name} (in the cluster)", f"{self.name} (to be)"))


def apply(cluster: Cluster, documents: Sequence[Document], dry_run: bool = False) -> Iterator[Change]:
    """Applies one after the other, or with `dry_run` asks the API server what that would do. Raises ClusterError."""
    new_namespaces: set[str] = set()
    for document in documents:
        before = cluster.get(document)
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


def _clean(document: Document) -> Document:
    metadata = {key: value for key, value in document["metadata"].items() if key not in _KEPT}
    return {key: value for key, value in document.items() if key != "status"} | {"metadata": metadata}


def _lines(document: Document | None) -> list[str]:
    if document is None:
        return []
    return yaml.safe_dump(_clean(document), sort_keys=True, allow_unicode=True, width=120).splitlines(keepends=True)
