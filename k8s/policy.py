"""What manifests must satisfy that no schema says; checked on the rendered documents before they are written."""

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from k8s.names import is_name

Document = dict[str, Any]

_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(rf"([a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/)?(?=.){_LABEL_VALUE.pattern}")
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")
_UNITS = {
    **{unit: Decimal(10) ** (3 * power) for power, unit in enumerate(("", "k", "M", "G", "T", "P", "E"))},
    **{unit: Decimal(2) ** (10 * power) for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
    "m": Decimal("0.001"),
}
# A Secret's, a claim's, an account's name: an RFC 1123 subdomain (apimachinery validation.go).
_SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")
_REFERENCES = frozenset({"secretName", "claimName", "serviceAccountName", "priorityClassName", "ingressClassName"})
_RANGES = (("minReplicas", "maxReplicas"), ("minReplicaCount", "maxReplicaCount"))


class ManifestError(ValueError):
    """The manifests would be refused by a cluster, or would not do what they say."""


def check(documents: Sequence[Document]) -> None:
    """Raises ManifestError naming every policy that the documents of one workload break."""
    pods = [(document, pod) for document in documents for pod in pod_templates(document)]
    broken = [
        *_names(documents),
        *(text for document in documents for text in _labels(document)),
        *_selectors(documents, [pod for _, pod in pods]),
        *_targets(documents),
        *(text for document, pod in pods for rule in _OF_A_POD for text in rule(document, pod["spec"])),
    ]
    if broken:
        raise ManifestError("; ".join(dict.fromkeys(broken)))


def pod_templates(document: Document) -> list[Document]:
    """The pod templates of a document."""
    if document["kind"] == "Deployment":
        return [document["spec"]["template"]]
    if document["kind"] == "LeaderWorkerSet":
        group = document["spec"]["leaderWorkerTemplate"]
        return [group["leaderTemplate"], group["workerTemplate"]]
    return []


def _names(documents: Sequence[Document]) -> Iterator[str]:
    for document in documents:
        name, namespace = document["metadata"]["name"], document["metadata"].get("namespace", "default")
        for key, value in (("name", name), ("namespace", namespace)):
            valid = _SUBDOMAIN.fullmatch(str(value)) if document["kind"] == "ServiceAccount" else is_name(str(value))
            if not valid:
                yield f"{document['kind']}: {key} {value!r} is not an RFC 1035 label"
        for key, value in _walk(document):
            if key in _REFERENCES and not _SUBDOMAIN.fullmatch(str(value)):
                yield f"{document['kind']}: {key} {value!r} is not a Kubernetes name"
    seen = [(document["kind"], document["metadata"]["name"]) for document in documents]
    for kind, name in sorted({each for each in seen if seen.count(each) > 1}):
        yield f"{kind} {name!r} stands twice"


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with what it holds, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner)


def _labels(document: Document) -> Iterator[str]:
    for key, found in _walk(document):
        if key in ("labels", "nodeSelector", "matchLabels"):
            yield from (text for name, value in found.items() for text in _label(name, value))
        elif key == "matchExpressions":
            yield from (text for each in found for value in each["values"] for text in _label(each["key"], value))


def _label(key: object, value: object) -> Iterator[str]:
    if not _LABEL_KEY.fullmatch(str(key)) or not isinstance(value, str) or not _LABEL_VALUE.fullmatch(value):
        yield f"{key}: {value!r} is not a label: at most 63 letters, digits, '.', '_' and '-'"


def _selectors(documents: Sequence[Document], pods: list[Document]) -> Iterator[str]:
    """Each chooses pods, and a Deployment its own; a ServiceMonitor chooses the Service."""
    carried = [pod["metadata"]["labels"] for pod in pods]
    services = [each["metadata"]["labels"] for each in documents if each["kind"] == "Service"]
    for document in documents:
        kind, spec = document["kind"], document.get("spec", {})
        selector = spec.get("selector") or spec.get("podSelector")
        if selector is None:
            continue
        selector = {key: value for key, value in selector.get("matchLabels", selector).items() if "leaderw" not in key}
        its = pod_templates(document)
        own = [pod["metadata"]["labels"] for pod in its] or carried
        choices = services if kind == "ServiceMonitor" else own
        if not selector or not any(selector.items() <= labels.items() for labels in choices):
            yield f"{kind}: its selector {selector} chooses none of {'its own' if its else 'the'} pods"
        others = [pod for pod in pods if pod not in its]
        if its and any(selector.items() <= pod["metadata"]["labels"].items() for pod in others):
            yield f"{kind}: its selector {selector} chooses pods of another as well"


def _targets(documents: Sequence[Document]) -> Iterator[str]:
    """What one document names in another is there."""
    names = {(document["kind"], document["metadata"]["name"]) for document in documents}
    ports = {port["name"] for each in documents for pod in pod_templates(each) for port in _ports(pod)}
    for document in documents:
        kind, spec = document["kind"], document.get("spec", {})
        for key in ("scaleTargetRef", "targetRef"):
            if (target := spec.get(key)) and (target["kind"], target["name"]) not in names:
                yield f"{kind}: there is no {target['kind']} {target['name']!r}"
        if kind == "Service":
            for port in spec["ports"]:
                if port["targetPort"] not in ports:
                    yield f"Service: port {port['targetPort']!r} is no named port of the pod"
        for low, high in _RANGES:
            if high in spec and not 1 <= spec[low] <= spec[high]:
                yield f"{kind}: from {spec[low]} to {spec[high]} pods is no range to scale in; it starts at 1"


def _ports(pod: Document) -> Iterator[Document]:
    for container in pod["spec"]["containers"]:
        yield from container.get("ports", [])


def _quantities(document: Document, spec: Document) -> Iterator[str]:
    kind = document["kind"]
    for container in _containers(spec):
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        for name, amount in (requests | limits).items():
            if not _QUANTITY.fullmatch(str(amount)):
                yield f"{kind}: {name} {amount!r} is not a quantity such as 4, 500m or 16Gi"
        for name, amount in limits.items():
            if amount != requests[name]:
                yield f"{kind}: {name} is {requests[name]} requested and {amount} at most; they must be the same"


def _sizes(document: Document, spec: Document) -> Iterator[str]:
    """What is laid on the node's disk fits what the pod may lay there. (What lies in memory is a bound, not a need.)"""
    held = [volume["emptyDir"] for volume in spec.get("volumes", []) if "emptyDir" in volume]
    sizes = [each["sizeLimit"] for each in held if "medium" not in each and "sizeLimit" in each]
    limit = spec["containers"][0]["resources"]["limits"]["ephemeral-storage"]
    if sum(map(_amount, sizes)) > _amount(limit):
        yield f"{document['kind']}: ephemeral-storage {limit} is less than volumes of {', '.join(sizes)}"


def _amount(quantity: object) -> Decimal:
    """0 for what is no quantity, which is told of by itself."""
    found = _QUANTITY.fullmatch(str(quantity))
    return Decimal(found[1]) * _UNITS[found[2] or ""] if found else Decimal(0)


def _volumes(document: Document, spec: Document) -> Iterator[str]:
    kind = document["kind"]
    volumes = [volume["name"] for volume in spec.get("volumes", [])]
    mounts = [(mount["name"], mount["mountPath"]) for each in _containers(spec) for mount in each["volumeMounts"]]
    for name in sorted({name for name, _ in mounts} - set(volumes)):
        yield f"{kind}: {name!r} is mounted but no volume has that name"
    for name in sorted(set(volumes) - {name for name, _ in mounts}):
        yield f"{kind}: volume {name!r} is mounted nowhere"
    for container in _containers(spec):
        paths = [mount["mountPath"] for mount in container["volumeMounts"]]
        for path in sorted({path for path in paths if paths.count(path) > 1}):
            yield f"{kind}: two volumes are mounted at {path}"


def _stop(document: Document, spec: Document) -> Iterator[str]:
    grace = spec["terminationGracePeriodSeconds"]
    for container in spec["containers"]:
        *_, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
        if int(seconds) >= grace:
            kind = document["kind"]
            yield f"{kind}: preStop sleeps {seconds} s of a grace period of {grace} s; nothing is left to finish in"


def _port_names(document: Document, spec: Document) -> Iterator[str]:
    for port in _ports({"spec": spec}):
        if not _PORT_NAME.fullmatch(port["name"]):
            yield f"{document['kind']}: port {port['name']!r} is not at most 15 lower-case letters, digits and dashes"


def _locked_down(document: Document, spec: Document) -> Iterator[str]:
    """As the restricted Pod Security Standard has it (kubernetes.io/docs/concepts/security)."""
    kind = document["kind"]
    if spec["securityContext"].get("runAsNonRoot") is not True:
        yield f"{kind}: its pods may run as root"
    for container in _containers(spec):
        context = container["securityContext"]
        if context["allowPrivilegeEscalation"] or context["capabilities"]["drop"] != ["ALL"]:
            yield f"{kind}: container {container['name']!r} has privileges"


_OF_A_POD = (_quantities, _sizes, _volumes, _stop, _port_names, _locked_down)


def _containers(spec: Document) -> list[Document]:
    return [*spec.get("initContainers", []), *spec["containers"]]
