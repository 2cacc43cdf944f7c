import yaml

from k8s.kustomize import kustomization
from k8s.render import render
from tests.k8s.test_render import CASES


def test_every_file_is_a_resource_in_its_order() -> None:
    files = render(CASES["several"])
    assert yaml.safe_load(kustomization(files)) == {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(files),
    }
