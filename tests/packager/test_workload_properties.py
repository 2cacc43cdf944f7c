"""Any valid config.yaml becomes manifests that the API of Kubernetes takes."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k8s.gpus import GPUS, Gpu, counts
from packager.cli.workload import rendered
from packager.config import PackageConfig, load
from packager.workload import Asked, workload
from tests.k8s.test_render import VERSIONS, validate
from tests.k8s.workloads import env_names, hosts, images, label_values, names, texts

pytestmark = pytest.mark.slow

secret_keys = st.from_regex(r"[a-z]{1,8}/[a-z_]{1,8}", fullmatch=True)
quantities = st.builds("{}{}".format, st.integers(1, 4096), st.sampled_from(["M", "Gi"]))


def counted(gpu: Gpu) -> st.SearchStrategy[str]:
    return st.sampled_from(counts(gpu)).map(lambda count: f"{gpu.name}:{count}")


engines = st.one_of(
    st.fixed_dictionaries({"how": st.sampled_from(["pull", "init"]), "source": st.just("oci://registry/engine:1")}),
    st.fixed_dictionaries({"how": st.sampled_from(["claim", "volume"]), "source": names}),
)
autoscales = st.one_of(
    st.fixed_dictionaries({"most": st.integers(4, 50)}, optional={"least": st.integers(1, 4)}),
    st.fixed_dictionaries({"most": st.integers(1, 50), "scaler": st.just("keda"), "server": st.just("http://a:9090")}),
)
routes = st.fixed_dictionaries(
    {"kind": st.sampled_from(["gateway", "ingress"]), "parent": names}, optional={"host": hosts}
)
sections = st.fixed_dictionaries(
    {"nodes": st.fixed_dictionaries({"labels": st.just("any")}, optional={"selector": st.dictionaries(names, names)})},
    optional={
        "namespace": names,
        "create_namespace": st.booleans(),
        "replicas": st.integers(0, 100),
        "gpus": st.lists(st.sampled_from(GPUS), min_size=1, max_size=3, unique=True).flatmap(
            lambda gpus: st.tuples(*map(counted, gpus)).map(list)
        ),
        "engine": engines,
        "cache_claim": names,
        "secret_env": st.dictionaries(env_names.map("SECRET_{}".format), secret_keys, max_size=3),
        "image_pull_secrets": st.lists(names, unique=True, max_size=2),
        "service_account": st.fixed_dictionaries({"name": names}, optional={"create": st.booleans()}),
        "priority_class": names,
        "labels": st.dictionaries(names, label_values, max_size=2),
        "drain_seconds": st.integers(0, 60),
        "spare_gpu": st.booleans(),
        "disruption_budget": st.booleans(),
        "autoscale": autoscales,
        "monitoring": st.sampled_from(["gmp", "prometheus"]),
        "allowed_namespaces": st.lists(names, max_size=2),
        "route": routes,
    },
)
configs = st.fixed_dictionaries(
    {"runtime": st.just({"predict_concurrency": 256}), "kubernetes": sections},
    optional={
        "model_name": texts,
        "engine": st.fixed_dictionaries({"checkpoint": st.just("hf://a/b")}),
        "resources": st.fixed_dictionaries(
            {"cpu": st.integers(1, 200), "memory": quantities},
            optional={"accelerator": st.sampled_from(GPUS).flatmap(counted)},
        ),
        "environment_variables": st.dictionaries(env_names, texts, max_size=3),
        "secrets": st.dictionaries(st.from_regex(r"[a-z_]{1,12}", fullmatch=True), st.none(), max_size=3),
    },
)


def read(folder: Path, data: dict[str, Any]) -> PackageConfig:
    (folder / "config.yaml").write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
    return load(folder)


@given(configs, images, st.sampled_from(VERSIONS))
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
def test_it_is_rendered(tmp_path: Path, data: dict[str, Any], image: str, version: str) -> None:
    section = data["kubernetes"]
    if section.get("engine", {}).get("how") == "volume" and version.startswith("1.30."):
        version = VERSIONS[-1]  # image volumes are from 1.31 on
    texts = rendered(workload(tmp_path, read(tmp_path, data), Asked(image=image)))
    documents = [yaml.safe_load(text) for text in texts.values()]
    for document in documents:
        validate(document, version)
    pods = [each["spec"]["template"]["spec"] for each in documents if each["kind"] == "Deployment"]
    gpus = section.get("gpus") or [data.get("resources", {}).get("accelerator")]
    assert len(pods) == len(gpus)
    for pod, gpu in zip(pods, gpus, strict=True):
        (server,) = pod["containers"]
        assert server["image"] == image
        assert server["resources"]["limits"].get("nvidia.com/gpu", 0) == (int(gpu.partition(":")[2]) if gpu else 0)
        written = {each["name"]: each.get("value") for each in server["env"]}
        assert {name: re.sub(r"\$\$", "$", written[name] or "") for name in data.get("environment_variables", {})} == (
            data.get("environment_variables", {})
        )
