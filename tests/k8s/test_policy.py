"""Each policy, on manifests that break it; how rendered ones keep them all is tested with what renders them."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from k8s.policy import ManifestError, check
from k8s.render import render
from tests.k8s.test_render import CASES

Documents = dict[str, Any]


@pytest.fixture
def documents() -> Documents:
    """Those of the fullest case with one Deployment, by kind; a list of Deployments is not needed here."""
    found = [yaml.safe_load(text) for text in render(CASES["keda"]).values()]
    return {document["kind"]: document for document in found}


def pod(documents: Documents) -> dict[str, Any]:
    spec: dict[str, Any] = documents["Deployment"]["spec"]["template"]["spec"]
    return spec


def container(documents: Documents) -> dict[str, Any]:
    first: dict[str, Any] = pod(documents)["containers"][0]
    return first


BREAKS: dict[str, Callable[[Documents], object]] = {
    "Service: name 'A_b' is not an RFC 1035 label": lambda d: d["Service"]["metadata"].update(name="A_b"),
    "Deployment: its selector .* chooses none of its own pods": lambda d: d["Deployment"]["spec"]["selector"].update(
        matchLabels={"app": "other"}
    ),
    "Service: its selector .* chooses none of the pods": lambda d: d["Service"]["spec"].update(selector={"a": "b"}),
    "ServiceMonitor: its selector .* chooses none": lambda d: d["ServiceMonitor"]["spec"]["selector"].update(
        matchLabels={"a": "b"}
    ),
    "Service: port 'web' is no named port": lambda d: d["Service"]["spec"]["ports"][0].update(targetPort="web"),
    "port 'a-name-of-16-chs' is not at most 15": lambda d: container(d)["ports"][0].update(name="a-name-of-16-chs"),
    "ScaledObject: there is no Deployment 'gone'": lambda d: d["ScaledObject"]["spec"]["scaleTargetRef"].update(
        name="gone"
    ),
    "from 0 to 8 pods is no range": lambda d: d["ScaledObject"]["spec"].update(minReplicaCount=0),
    "from 9 to 8 pods is no range": lambda d: d["ScaledObject"]["spec"].update(minReplicaCount=9),
    "team: 'a b' is not a label": lambda d: pod(d).update(nodeSelector={"team": "a b"}),
    "memory '1GB' is not a quantity": lambda d: container(d)["resources"]["limits"].update(memory="1GB"),
    "nvidia.com/gpu is 1 requested and 2 at most": lambda d: container(d)["resources"]["limits"].update(
        {"nvidia.com/gpu": 2}
    ),
    "ephemeral-storage 10Gi is less than volumes of 11Gi": lambda d: pod(d)["volumes"][0].update(
        emptyDir={"sizeLimit": "11Gi"}
    ),
    "'tmp' is mounted but no volume has that name": lambda d: pod(d)["volumes"].pop(0),
    "volume 'spare' is mounted nowhere": lambda d: pod(d)["volumes"].append({"name": "spare", "emptyDir": {}}),
    "two volumes are mounted at /tmp": lambda d: container(d)["volumeMounts"][1].update(mountPath="/tmp"),
    "preStop sleeps 10 s of a grace period of 10 s": lambda d: pod(d).update(terminationGracePeriodSeconds=10),
    "its pods may run as root": lambda d: pod(d)["securityContext"].update(runAsNonRoot=False),
    "container 'server' has privileges": lambda d: container(d)["securityContext"].update(
        allowPrivilegeEscalation=True
    ),
    "secretName 'A b' is not a Kubernetes name": lambda d: pod(d)["volumes"][-1]["secret"].update(secretName="A b"),
}


@pytest.mark.parametrize("message", BREAKS)
def test_what_breaks_a_policy_is_named(message: str, documents: Documents) -> None:
    check(list(documents.values()))
    BREAKS[message](documents)
    with pytest.raises(ManifestError, match=message):
        check(list(documents.values()))


def test_every_breach_is_told_of_at_once(documents: Documents) -> None:
    pod(documents).update(terminationGracePeriodSeconds=10)
    documents["Service"]["spec"]["ports"][0].update(targetPort="web")
    with pytest.raises(ManifestError, match=r"Service: port 'web'.*; Deployment: preStop"):
        check(list(documents.values()))


def test_two_deployments_must_not_choose_each_others_pods(documents: Documents) -> None:
    found = [yaml.safe_load(text) for text in render(CASES["several"]).values()]
    deployments = [document for document in found if document["kind"] == "Deployment"]
    for document in deployments:
        document["spec"]["selector"]["matchLabels"].pop("app.kubernetes.io/instance")
    with pytest.raises(ManifestError, match="chooses pods of another as well"):
        check(found)
