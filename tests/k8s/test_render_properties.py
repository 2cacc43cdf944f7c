"""What holds for every workload that is valid, not only for those somebody thought of."""

import re
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k8s.policy import pod_templates
from k8s.render import render
from k8s.workload import Workload
from tests.k8s.test_render import VERSIONS, validate
from tests.k8s.workloads import workloads

pytestmark = pytest.mark.slow

OWN = {"LD_LIBRARY_PATH", "INFERENCE_SERVER_PORT", "TRTPACK_ENGINE_SOURCE", "TRTPACK_CACHE_DIR", "DOCKER_CONFIG"}
many = settings(deadline=None, suppress_health_check=list(HealthCheck))


def seen(container: dict[str, Any]) -> dict[str, str]:
    """The environment that the process sees, after Kubernetes has expanded references."""

    def expand(value: str) -> str:
        return re.sub(r"\$\$|\$\(.*?\)", lambda found: "$" if found[0] == "$$" else "", value)

    return {entry["name"]: expand(entry["value"]) for entry in container["env"] if "value" in entry}


@given(workloads(), st.sampled_from(VERSIONS))
@settings(many, max_examples=500)
def test_manifests_are_valid_and_say_what_the_workload_says(workload: Workload, version: str) -> None:
    texts = render(workload)
    assert render(workload) == texts
    documents = [yaml.safe_load(text) for text in texts.values()]
    if workload.engine and workload.engine.how == "volume" and version.startswith("1.30."):
        version = VERSIONS[-1]  # image volumes are from 1.31 on
    for document in documents:
        validate(document, version)
        if document["kind"] != "Namespace":
            assert document["metadata"].get("namespace") == workload.namespace
            assert document["metadata"]["labels"].items() >= dict(workload.labels).items()
    deployed = workload.deployments()
    found = [document for document in documents if pod_templates(document)]
    assert [document["metadata"]["name"] for document in found] == [each.name for each in deployed]
    for document, each in zip(found, deployed, strict=True):
        for pod in pod_templates(document):
            (server,) = pod["spec"]["containers"]
            assert server["image"] == each.image
            assert server["resources"]["limits"].get("nvidia.com/gpu", 0) == each.gpu_count
            assert server["resources"]["requests"]["cpu"] == each.cpu
            assert server["resources"]["limits"]["memory"] == each.memory
            assert seen(server).items() >= {k: v for k, v in each.env.items() if k not in OWN}.items()
        assert ("replicas" in document["spec"]) == (workload.autoscale is None)


@given(workloads())
@settings(many, max_examples=100)
def test_every_string_is_quoted_for_every_yaml_reader(workload: Workload) -> None:
    """Kubernetes reads YAML with Go's library, which takes more plain words for booleans and numbers than PyYAML."""
    for text in render(workload).values():
        for token in yaml.scan(text):
            if isinstance(token, yaml.ScalarToken) and token.plain:
                assert not re.fullmatch(r"(?i)y|n|on|off|~|null|[-+.]?[0-9][0-9._]*(e[0-9+-]+|[xo].*)", token.value)
