"""The compile Job: where the server's pods go, named after what it does, and taken by every API server."""

from dataclasses import replace
from typing import Any

import kubernetes_validate
import pytest
import yaml

from k8s.gpus import GPUS, find
from k8s.job import CompileJob, deployment, render_job
from k8s.policy import ManifestError
from k8s.render import Workload, render

CONFIG = "# mine\nmodel_name: Tiny 1\n\nengine: {checkpoint: 'hf://a/b'}  # é\n"
IMAGE = f"r.example/me/tiny-compiler@sha256:{'a' * 64}"
ARGUMENTS = ("compile", "/app", "--gpu", "nvidia-l4", "--push", "oci://r.example/me/tiny:1")


def server(**fields: Any) -> dict[str, Any]:
    workload = Workload(**{"name": "tiny", "image": "r.example/tiny:1", "gpu": find("L4"), "gpu_count": 1, **fields})
    return deployment(render(workload).values())


def job(**fields: Any) -> CompileJob:
    return CompileJob(**{"server": server(), "image": IMAGE, "arguments": ARGUMENTS, "config": CONFIG, **fields})


def rendered(**fields: Any) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(render_job(job(**fields)))
    return document


def pod(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("gpu", [gpu.name for gpu in GPUS])
def test_its_pod_goes_where_the_server_s_goes(gpu: str) -> None:
    serving = server(gpu=find(gpu), gpu_count=min(min(each) for each in find(gpu).machine_types.values()))
    compiling, its = pod(rendered(server=serving)), pod(serving)
    for field in ("nodeSelector", "tolerations", "securityContext"):
        assert compiling[field] == its[field]
    gpus = [each["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] for each in (compiling, its)]
    assert gpus[0] == gpus[1] > 0


@pytest.mark.parametrize("version", ["1.30", "1.33", "1.37"])
@pytest.mark.parametrize("fields", [{}, {"registry_secret": "push"}, {"config": "a: '\t'\n\n", "arguments": ("a: b",)}])
def test_the_schema_takes_it(version: str, fields: dict[str, Any]) -> None:
    kubernetes_validate.validate(rendered(**fields), version, strict=True)


@pytest.mark.parametrize("config", [CONFIG, "a: 1", "a: |\n  b\n   c\n\n", "", "\n\na: '\t'\n", 'a: "\\u2028"\n'])
def test_its_pod_reads_config_yaml_as_it_is(config: str) -> None:
    document = rendered(config=config)
    assert document["spec"]["template"]["metadata"]["annotations"] == {"trtpack/config.yaml": config}
    (container,) = pod(document)["containers"]
    mount = next(each for each in container["volumeMounts"] if each["name"] == "config")
    volume = next(each for each in pod(document)["volumes"] if each["name"] == "config")
    (item,) = volume["downwardAPI"]["items"]
    assert (mount["mountPath"], mount["subPath"]) == ("/app/config.yaml", item["path"])
    assert item["fieldRef"]["fieldPath"] == "metadata.annotations['trtpack/config.yaml']"


def test_the_same_job_has_the_same_name_and_any_other_has_another() -> None:
    names = {
        job().name,
        job(config=CONFIG + "\n").name,
        job(image=IMAGE[:-1] + "b").name,
        job(arguments=(*ARGUMENTS, "--checkpoint", "hf://a/b@c")).name,
        job(server=server(gpu=find("T4"))).name,
    }
    assert len(names) == 5
    assert job().name == job().name == rendered()["metadata"]["name"]
    assert all(name.startswith("tiny-compile-") for name in names)


def test_a_long_name_is_cut() -> None:
    name = job(server=server(name="a" * 63)).name
    assert len(name) == 63
    assert name.startswith("aaaa")


def test_the_server_s_service_does_not_choose_its_pod() -> None:
    workload = Workload(name="tiny", image="i")
    selector = yaml.safe_load(render(workload)["service.yaml"])["spec"]["selector"]
    assert not selector.items() <= rendered()["spec"]["template"]["metadata"]["labels"].items()


def test_it_is_tried_once_and_does_not_stay() -> None:
    spec = rendered(deadline_seconds=60, keep_seconds=5)["spec"]
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"]) == (0, 60, 5)
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def environment(document: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in pod(document)["containers"][0]["env"]}


def test_it_runs_on_the_gpu_unless_the_config_says_otherwise() -> None:
    assert environment(rendered())["TRTPACK_DEVICE"] == "cuda"
    assert environment(rendered(server=server(env={"TRTPACK_DEVICE": "cpu"})))["TRTPACK_DEVICE"] == "cpu"


def test_secrets_are_names_alone() -> None:
    document = rendered(registry_secret="push")
    assert environment(document)["HF_TOKEN"] == {
        "secretKeyRef": {"name": "tiny-secrets", "key": "hf_access_token", "optional": True}
    }
    assert environment(document)["DOCKER_CONFIG"] == "/registry"
    (volume,) = [each["secret"] for each in pod(document)["volumes"] if "secret" in each]
    assert volume == {"secretName": "push", "items": [{"key": ".dockerconfigjson", "path": "config.json"}]}
    assert pod(document)["imagePullSecrets"] == [{"name": "push"}]
    assert "DOCKER_CONFIG" not in environment(rendered())


def test_its_disk_is_asked_for() -> None:
    document = rendered(scratch="7Gi")
    resources = pod(document)["containers"][0]["resources"]
    assert {each["ephemeral-storage"] for each in resources.values()} == {"7Gi"}
    assert {"name": "scratch", "emptyDir": {"sizeLimit": "7Gi"}} in pod(document)["volumes"]


def test_an_image_by_tag_is_refused() -> None:
    with pytest.raises(ManifestError, match="not named by digest"):
        render_job(replace(job(), image="r.example/tiny-compiler:1"))


def test_several_deployments_are_several_engines() -> None:
    texts = [*render(Workload(name="a", image="i")).values(), *render(Workload(name="b", image="i")).values()]
    with pytest.raises(ManifestError, match="one GPU type"):
        deployment(texts)
