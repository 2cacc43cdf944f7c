"""What a manifest must satisfy that no schema says; checked on the rendered documents before they are written."""

import re
from collections.abc import Iterator
from typing import Any

from k8s.names import is_name

Document = dict[str, Any]

_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(rf"([a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/)?(?=.){_LABEL_VALUE.pattern}")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")


class ManifestError(ValueError):
    """The manifests would be refused by a cluster, or would not do what they say."""


def check(deployment: Document, service: Document) -> None:
    """Raises ManifestError naming every policy that the two documents break."""
    broken = [
        *_names(deployment, service),
        *_labels(deployment, service),
        *_selectors(deployment, service),
        *_quantities(deployment),
        *_volumes(deployment),
        *_stop(deployment),
    ]
    if broken:
        raise ManifestError("; ".join(broken))


def _names(*documents: Document) -> Iterator[str]:
    for document in documents:
        for key, name in document["metadata"].items():
            if key in {"name", "namespace"} and not is_name(str(name)):
                yield f"{document['kind']}: {key} {name!r} is not an RFC 1035 label"


def _labels(deployment: Document, service: Document) -> Iterator[str]:
    for labels in (
        deployment["metadata"]["labels"],
        deployment["spec"]["template"]["metadata"]["labels"],
        deployment["spec"]["template"]["spec"].get("nodeSelector", {}),
        service["metadata"]["labels"],
    ):
        for key, value in labels.items():
            if not _LABEL_KEY.fullmatch(str(key)) or not isinstance(value, str) or not _LABEL_VALUE.fullmatch(value):
                yield f"{key}: {value!r} is not a label: at most 63 letters, digits, '.', '_' and '-'"


def _selectors(deployment: Document, service: Document) -> Iterator[str]:
    pod = deployment["spec"]["template"]["metadata"]["labels"].items()
    for document, selector in (
        (deployment, deployment["spec"]["selector"]["matchLabels"]),
        (service, service["spec"]["selector"]),
    ):
        if not selector or not selector.items() <= pod:
            yield f"{document['kind']}: its selector {selector} does not choose the Deployment's own pods"
    ports = {port["name"] for container in _containers(deployment) for port in container["ports"]}
    for port in service["spec"]["ports"]:
        if port["targetPort"] not in ports:
            yield f"Service: port {port['targetPort']!r} is no named port of the pod"


def _quantities(deployment: Document) -> Iterator[str]:
    for container in _containers(deployment):
        for name, amount in container["resources"]["requests"].items():
            if not _QUANTITY.fullmatch(str(amount)):
                yield f"Deployment: {name} {amount!r} is not a quantity such as 4, 500m or 16Gi"


def _volumes(deployment: Document) -> Iterator[str]:
    volumes = {volume["name"] for volume in deployment["spec"]["template"]["spec"].get("volumes", [])}
    mounts = {mount["name"] for container in _containers(deployment) for mount in container.get("volumeMounts", [])}
    for name in sorted(mounts - volumes):
        yield f"Deployment: {name!r} is mounted but no volume has that name"
    for name in sorted(volumes - mounts):
        yield f"Deployment: volume {name!r} is mounted nowhere"


def _stop(deployment: Document) -> Iterator[str]:
    grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    for container in _containers(deployment):
        *_, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
        if int(seconds) >= grace:
            yield f"Deployment: preStop sleeps {seconds} s of a grace period of {grace} s; nothing is left to finish in"


def _containers(deployment: Document) -> list[Document]:
    containers: list[Document] = deployment["spec"]["template"]["spec"]["containers"]
    return containers
