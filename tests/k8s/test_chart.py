"""The Helm chart, less what Helm itself makes of it: tests/e2e/test_manifests.py."""

from dataclasses import replace

import pytest
import yaml

from k8s.chart import chart
from k8s.policy import ManifestError
from tests.k8s.test_render import CASES, L4


def test_values_are_what_one_changes() -> None:
    assert yaml.safe_load(chart(L4)["values.yaml"]) == {
        "image": L4.image,
        "replicas": 1,
        "cpu": "4",
        "memory": "16Gi",
        "ephemeralStorage": "10Gi",
    }


def test_each_of_several_gpus_has_its_own_values() -> None:
    values = yaml.safe_load(chart(CASES["several"])["values.yaml"])
    assert list(values) == ["smollm2-135m-l4", "smollm2-135m-a100-80gb"]


def test_the_release_brings_the_namespace() -> None:
    files = chart(CASES["several"])
    assert "templates/namespace.yaml" not in files
    assert "namespace: " not in files["templates/deployment-l4.yaml"]


def test_its_head_is_what_helm_asks_for() -> None:
    head = yaml.safe_load(chart(L4)["Chart.yaml"])
    assert (head["apiVersion"], head["name"], head["appVersion"]) == ("v2", "smollm2-135m", "0.1.0")


def test_a_template_in_a_value_is_text_to_helm() -> None:
    text = chart(replace(L4, env={"PROMPT": "{{ system }}"}))["templates/deployment.yaml"]
    assert '{{ "{{" }} system }}' in text


def test_it_is_refused_as_the_plain_files_are() -> None:
    with pytest.raises(ManifestError, match="allowed: 1, 2, 4, 8"):
        chart(replace(L4, gpu_count=3))
