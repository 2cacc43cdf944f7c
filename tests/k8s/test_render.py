"""Manifests: what a person keeps in git, what a cluster accepts, and nothing that YAML could twist."""

import os
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kubernetes_validate.utils import all_versions

from k8s.gpus import GPUS, Gpu, counts, find
from k8s.policy import ManifestError
from k8s.render import FILES, Workload, render

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = (all_versions()[0], all_versions()[-1])

L4 = Workload(
    name="smollm2-135m",
    image="registry.example/models/smollm2-135m:0.1.0",
    namespace="models",
    version="0.1.0",
    gpu=find("L4"),
    gpu_count=1,
    cpu="4",
    memory="16Gi",
    env={"LOG_LEVEL": "info", "ANSWER": "yes"},
    secrets=("hf_access_token",),
    labels={"team": "search"},
)
CPU = Workload(name="smollm2-135m", image="smollm2-135m:0.1.0", replicas=2)
CASES = {
    "l4": L4,
    "cpu": CPU,
    "gb200": Workload(
        name="big", image="registry.example/big:1", gpu=find("nvidia-gb200"), gpu_count=4, memory="800Gi"
    ),
    "l40s": Workload(name="elsewhere", image="registry.example/elsewhere:1", gpu=find("L40S"), gpu_count=1),
}


def documents(workload: Workload) -> tuple[dict[str, Any], dict[str, Any]]:
    deployment, service = (yaml.safe_load(text) for text in render(workload).values())
    return deployment, service


def pod(workload: Workload) -> dict[str, Any]:
    return documents(workload)[0]["spec"]["template"]["spec"]


def container(workload: Workload) -> dict[str, Any]:
    return pod(workload)["containers"][0]


def environment(workload: Workload) -> dict[str, str]:
    """The environment that the process sees, after Kubernetes has expanded references."""

    def expand(value: str) -> str:
        return re.sub(r"\$\$|\$\(.*?\)", lambda found: "$" if found[0] == "$$" else "", value)

    return {entry["name"]: expand(entry["value"]) for entry in container(workload)["env"]}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("file", FILES)
def test_golden(case: str, file: str) -> None:
    """A change of the output is a change of these files: UPDATE_GOLDEN=1 writes them."""
    path, text = GOLDEN / case / file, render(CASES[case])[file]
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("gpu", [None, *GPUS], ids=lambda gpu: gpu.name if gpu else "cpu")
def test_every_gpu_passes_the_oldest_and_newest_schema(gpu: Gpu | None, version: str) -> None:
    workload = replace(L4, gpu=gpu, gpu_count=counts(gpu)[-1] if gpu else 0)
    for document in documents(workload):
        kubernetes_validate.validate(document, version, strict=True)


def test_gpu_pod_goes_to_its_gpu_and_no_other() -> None:
    spec = pod(L4)
    assert spec["nodeSelector"] == {
        "cloud.google.com/gke-accelerator": "nvidia-l4",
        "cloud.google.com/gke-gpu-driver-version": "latest",
    }
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    resources = spec["containers"][0]["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == 1


def test_gpu_off_gke_is_chosen_by_its_product_label() -> None:
    assert pod(CASES["l40s"])["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L40S"}


def test_arm64_gpu_is_chosen_and_tolerated() -> None:
    spec = pod(CASES["gb200"])
    assert spec["nodeSelector"]["kubernetes.io/arch"] == "arm64"
    assert {"key": "kubernetes.io/arch", "operator": "Equal", "value": "arm64", "effect": "NoSchedule"} in spec[
        "tolerations"
    ]


def test_gpu_of_cuda_12_runs_on_the_default_driver() -> None:
    assert pod(replace(L4, gpu=find("V100")))["nodeSelector"] == {
        "cloud.google.com/gke-accelerator": "nvidia-tesla-v100"
    }


def test_rollout_needs_no_spare_gpu() -> None:
    assert documents(L4)[0]["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert documents(CPU)[0]["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_cpu_pod_has_no_trace_of_a_gpu() -> None:
    text = "".join(render(CPU).values())
    assert not re.search(r"nvidia|gpu|accelerator|/dev/shm|tolerations|nodeSelector", text, re.IGNORECASE)


def test_probes_wait_for_the_load() -> None:
    workload = replace(L4, load_seconds=900)
    probes = container(workload)
    startup = probes["startupProbe"]
    assert startup["httpGet"] == {"path": "/v1/models/model", "port": "http"} == probes["readinessProbe"]["httpGet"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 900
    # Not GET /, which is 200 for as long as the process lives: a model that has failed for good must be restarted.
    assert probes["livenessProbe"]["httpGet"] == startup["httpGet"]
    assert documents(workload)[0]["spec"]["progressDeadlineSeconds"] > 900


def test_container_is_locked_down() -> None:
    spec = pod(L4)
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "fsGroup": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert spec["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is spec["enableServiceLinks"] is False


def test_writable_places_are_mounted() -> None:
    mounts = {mount["name"]: mount["mountPath"] for mount in container(L4)["volumeMounts"]}
    assert mounts == {"tmp": "/tmp", "shm": "/dev/shm", "secrets": "/secrets"}
    volumes = {volume["name"]: volume for volume in pod(L4)["volumes"]}
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"


def test_secrets_are_references_to_an_optional_secret() -> None:
    secret = next(volume["secret"] for volume in pod(L4)["volumes"] if volume["name"] == "secrets")
    assert secret == {
        "secretName": "smollm2-135m-secrets",
        "optional": True,
        "defaultMode": 0o440,
        "items": [{"key": "hf_access_token", "path": "hf_access_token"}],
    }


def test_secret_hint_is_a_command_that_a_shell_reads() -> None:
    comment = render(replace(L4, secrets=("a", "123")))["deployment.yaml"].splitlines()[1]
    command = shlex.split(comment.removeprefix("#"))
    assert command[:5] == ["kubectl", "create", "secret", "generic", "smollm2-135m-secrets"]
    assert command[5:] == ["--from-literal=a=...", "--from-literal=123=..."]


def test_driver_libraries_are_found_and_a_path_of_the_user_is_kept() -> None:
    assert environment(L4)["LD_LIBRARY_PATH"] == "/usr/local/nvidia/lib64"
    user = replace(L4, env={"LD_LIBRARY_PATH": "/opt/lib"})
    assert environment(user)["LD_LIBRARY_PATH"] == "/opt/lib:/usr/local/nvidia/lib64"


def test_service_sends_port_80_to_the_server() -> None:
    deployment, service = documents(L4)
    assert service["spec"]["type"] == "ClusterIP"
    assert service["spec"]["ports"] == [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    assert container(L4)["ports"] == [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]
    assert environment(L4)["INFERENCE_SERVER_PORT"] == "8080"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gpu_count": 3}, "3 GPUs a pod do not fit the machines with nvidia-l4; allowed: 1, 2, 4, 8"),
        ({"gpu_count": 0}, "0 GPUs a pod do not fit"),
        ({"gpu": None}, "gpu_count is 1 but no GPU type is named"),
        ({"name": "SmolLM2"}, "'SmolLM2' is not a Kubernetes name"),
        ({"name": "1b"}, "'1b' is not a Kubernetes name"),
        ({"namespace": "my models"}, "namespace 'my models' is not an RFC 1035 label"),
        ({"env": {"A B": "1"}}, "'A B' is not a name for an environment variable"),
        ({"secrets": ("../token",)}, "'../token' is not a name for a secret"),
        ({"labels": {"app.kubernetes.io/name": "x"}}, "the label app.kubernetes.io/name is trtpack's own"),
        ({"labels": {"team": "a b"}}, "team: 'a b' is not a label"),
        ({"labels": {"": "a"}}, ": 'a' is not a label"),
        ({"version": "1.0+cu130"}, "'1.0.cu130' is not a label"),
        ({"memory": "16GB"}, "memory '16GB' is not a quantity"),
        ({"cpu": ""}, "cpu '' is not a quantity"),
        ({"drain_seconds": 130}, "preStop sleeps 130 s of a grace period of 130 s"),
    ],
)
def test_what_a_cluster_would_refuse_is_refused_here(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        render(replace(L4, **change))


names = st.from_regex(r"[a-z]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
tricky = st.sampled_from(
    ["yes", "n", "null", "~", "1e3", "0x1f", "12:30", "a: b", "# x", "'\"", "a\nb", "{{ x }}", "$(A)", "$$"]
)
label_values = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?", fullmatch=True)
env_names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,10}", fullmatch=True)
quantities = st.from_regex(r"[1-9][0-9]{0,3}(Mi|Gi|m)?", fullmatch=True)


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    gpu = draw(st.none() | st.sampled_from(GPUS))
    return Workload(
        name=draw(names),
        image=draw(st.from_regex(r"[a-z0-9./:@-]{1,30}", fullmatch=True) | tricky),
        namespace=draw(st.none() | names),
        version=draw(st.none() | label_values),
        replicas=draw(st.integers(0, 100)),
        gpu=gpu,
        gpu_count=draw(st.sampled_from(counts(gpu))) if gpu else 0,
        cpu=draw(quantities),
        memory=draw(quantities),
        ephemeral_storage=draw(quantities),
        port=draw(st.integers(1, 65535)),
        env=draw(st.dictionaries(env_names, texts | tricky, max_size=4)),
        secrets=tuple(draw(st.lists(st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True), unique=True, max_size=3))),
        labels=draw(st.dictionaries(names, label_values | tricky.filter(str.isalnum), max_size=3)),
        load_seconds=draw(st.integers(1, 7200)),
    )


@given(workloads(), st.sampled_from(VERSIONS))
@settings(deadline=None, max_examples=40)
def test_yaml_says_what_the_workload_says(workload: Workload, version: str) -> None:
    deployment, service = documents(workload)
    for document in (deployment, service):
        kubernetes_validate.validate(document, version, strict=True)
        assert document["metadata"]["name"] == workload.name
        assert document["metadata"].get("namespace") == workload.namespace
        assert document["metadata"]["labels"].items() >= dict(workload.labels).items()
        assert document["metadata"]["labels"].get("app.kubernetes.io/version") == workload.version
    server = container(workload)
    seen = environment(workload)
    assert (
        seen.items()
        >= {k: v for k, v in workload.env.items() if k not in {"LD_LIBRARY_PATH", "INFERENCE_SERVER_PORT"}}.items()
    )
    assert server["image"] == workload.image
    assert server["resources"]["requests"]["cpu"] == workload.cpu
    assert server["resources"]["limits"]["memory"] == workload.memory
    assert server["resources"]["limits"].get("nvidia.com/gpu", 0) == workload.gpu_count
    assert deployment["spec"]["replicas"] == workload.replicas
    assert render(workload) == render(workload)


@given(workloads())
@settings(deadline=None, max_examples=30)
def test_every_string_is_quoted_for_every_yaml_reader(workload: Workload) -> None:
    """Kubernetes reads YAML with Go's library, which takes more plain words for booleans and numbers than PyYAML."""
    for text in render(workload).values():
        for token in yaml.scan(text):
            if isinstance(token, yaml.ScalarToken) and token.plain:
                assert not re.fullmatch(r"(?i)y|n|on|off|~|null|[-+.]?[0-9][0-9._]*(e[0-9+-]+|[xo].*)", token.value)
