"""Manifests: what a person keeps in git, what a cluster accepts, and nothing that YAML could twist."""

import os
import re
import shlex
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import all_versions

from k8s.gpus import GPUS, Gpu, counts, find
from k8s.policy import ManifestError
from k8s.render import render
from k8s.workload import Autoscale, Engine, Nodes, Route, ServiceAccount, Variant, Workload
from runtime.metrics import WAITING

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = [version for version in all_versions() if int(version.split(".")[1]) >= 30]
# Kinds that a cluster learns from what is installed in it; no schema of Kubernetes has them.
FOREIGN = {
    *("ScaledObject", "PodMonitoring", "ServiceMonitor", "HTTPRoute", "LeaderWorkerSet"),
    *("GCPBackendPolicy", "HealthCheckPolicy"),
}

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
    # Two GPU types behind one Service, on any cluster, with everything around them.
    "several": replace(
        L4,
        gpu=None,
        gpu_count=0,
        variants=(Variant(gpu=find("L4")), Variant(gpu=find("A100"), gpu_count=2)),
        nodes=Nodes(labels="any"),
        create_namespace=True,
        engine=Engine(how="pull", source="oci://registry.example/engine:1", registry_secret="engine-registry"),
        cache_size="4Gi",
        ephemeral_storage="14Gi",
        secret_env={"HF_TOKEN": ("hf-secret", "token")},
        image_pull_secrets=("registry",),
        service_account=ServiceAccount(name="smollm2", annotations={"example.com/role": "reader"}),
        disruption_budget=True,
        autoscale=Autoscale(most=4),
        monitoring="gmp",
        allowed_namespaces=("web",),
        route=Route(kind="ingress", parent="nginx", host="llm.example.com", tls_secret="llm-tls"),
    ),
    # On spot nodes of GKE, behind its Gateway; the engine pulled before the server starts, kept on a volume.
    "gateway": replace(
        L4,
        nodes=Nodes(spot=True, compute_class="l4-spot", machine_type="g2-standard-8"),
        engine=Engine(how="init", source="hf://me/smollm2-engine@0123"),
        cache_claim="kernels",
        route=Route(kind="gateway", parent="infra/external", host="llm.example.com"),
        allowed_namespaces=(),
        spare_gpu=True,
        replicas=2,
    ),
    "claim": replace(L4, engine=Engine(how="claim", source="engines", path="smollm2/l4"), priority_class="serving"),
    "volume": replace(
        L4, engine=Engine(how="volume", source="registry.example/smollm2-engine@sha256:0123"), nodes=Nodes(labels="gfd")
    ),
    "shared": replace(L4, nodes=Nodes(sharing="mps", max_shared_clients=2, selector={"pool": "small"})),
    "keda": replace(
        L4,
        autoscale=Autoscale(most=8, least=2, scaler="keda", server="http://prometheus.monitoring:9090", auth="reader"),
        monitoring="prometheus",
    ),
    "group": replace(L4, gpu=find("H100"), gpu_count=8, group_size=2, version=None),
}


def documents(workload: Workload) -> list[dict[str, Any]]:
    return [yaml.load(text, yaml.CSafeLoader) for text in render(workload).values()]


@cache
def documents_of(case: str) -> list[dict[str, Any]]:
    return documents(CASES[case])


def document(workload: Workload, kind: str) -> dict[str, Any]:
    (found,) = (each for each in documents(workload) if each["kind"] == kind)
    return found


def validate(each: dict[str, Any], version: str) -> None:
    """By the schema of that release, which refuses fields that it does not have."""
    if each["kind"] not in FOREIGN:
        kubernetes_validate.validate(each, version, strict=True)


def pod(workload: Workload) -> dict[str, Any]:
    return document(workload, "Deployment")["spec"]["template"]["spec"]


def container(workload: Workload) -> dict[str, Any]:
    return pod(workload)["containers"][0]


def environment(workload: Workload) -> dict[str, str]:
    """The environment that the process sees, after Kubernetes has expanded references."""

    def expand(value: str) -> str:
        return re.sub(r"\$\$|\$\(.*?\)", lambda found: "$" if found[0] == "$$" else "", value)

    return {entry["name"]: expand(entry["value"]) for entry in container(workload)["env"]}


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    """A change of the output is a change of these files: UPDATE_GOLDEN=1 writes them."""
    folder, texts = GOLDEN / case, render(CASES[case])
    if os.environ.get("UPDATE_GOLDEN"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text)
    assert {path.name: path.read_text() for path in folder.iterdir()} == texts


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", CASES)
def test_every_object_passes_the_schema(case: str, version: str) -> None:
    if case == "volume" and version.startswith("1.30."):
        pytest.skip("image volumes are from 1.31 on")
    for each in documents_of(case):
        validate(each, version)


@pytest.mark.parametrize("gpu", [None, *GPUS], ids=lambda gpu: gpu.name if gpu else "cpu")
def test_every_gpu_passes_the_oldest_and_newest_schema(gpu: Gpu | None) -> None:
    workload = replace(L4, gpu=gpu, gpu_count=counts(gpu)[-1] if gpu else 0)
    for each in documents(workload):
        validate(each, VERSIONS[0])
        validate(each, VERSIONS[-1])


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
    assert document(L4, "Deployment")["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert document(CPU, "Deployment")["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


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
    assert document(workload, "Deployment")["spec"]["progressDeadlineSeconds"] > 900


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


def test_each_of_several_gpus_has_a_deployment_and_all_one_service() -> None:
    found = [each for each in documents(CASES["several"]) if each["kind"] == "Deployment"]
    pods = [each["spec"]["template"] for each in found]
    limits = [pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] for pod in pods]
    assert [each["metadata"]["name"] for each in found] == ["smollm2-135m-l4", "smollm2-135m-a100-80gb"]
    assert limits == [1, 2]
    selector = document(CASES["several"], "Service")["spec"]["selector"].items()
    assert all(selector <= pod["metadata"]["labels"].items() for pod in pods)
    own = [each["spec"]["selector"]["matchLabels"].items() for each in found]
    assert not own[0] <= pods[1]["metadata"]["labels"].items()


def test_each_gpu_may_have_its_own_image_and_engine() -> None:
    own = Variant(gpu=find("T4"), image="t4:1", engine=Engine(how="claim", source="t4-engine"))
    workload = replace(CASES["several"], variants=(Variant(gpu=find("L4")), own))
    first, second = (each for each in documents(workload) if each["kind"] == "Deployment")
    volumes = [{volume["name"] for volume in each["spec"]["template"]["spec"]["volumes"]} for each in (first, second)]
    assert second["spec"]["template"]["spec"]["containers"][0]["image"] == "t4:1"
    assert "cache" in volumes[0] and "engine" not in volumes[0]
    assert "engine" in volumes[1] and "cache" not in volumes[1]


def test_nodes_of_any_cluster_are_chosen_by_either_label() -> None:
    workload = replace(L4, nodes=Nodes(labels="any"))
    affinity = pod(workload)["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    terms = [{e["key"]: e["values"] for e in term["matchExpressions"]} for term in affinity["nodeSelectorTerms"]]
    assert terms == [
        {
            "cloud.google.com/gke-accelerator": ["nvidia-l4"],
            "cloud.google.com/gke-gpu-driver-version": ["latest"],
        },
        {"nvidia.com/gpu.product": ["NVIDIA-L4"]},
    ]
    assert "nodeSelector" not in pod(workload)


def test_a_pulled_engine_has_a_place_of_a_known_size() -> None:
    workload = replace(CASES["several"], variants=(), gpu=find("L4"), gpu_count=1)
    volumes = {volume["name"]: volume for volume in pod(workload)["volumes"]}
    assert volumes["cache"]["emptyDir"] == {"sizeLimit": "4Gi"}
    assert volumes["registry"]["secret"]["items"] == [{"key": ".dockerconfigjson", "path": "config.json"}]
    env = {entry["name"]: entry for entry in container(workload)["env"]}
    assert env["TRTPACK_ENGINE_SOURCE"]["value"] == "oci://registry.example/engine:1"
    assert env["TRTPACK_CACHE_DIR"]["value"] == "/cache"
    assert env["DOCKER_CONFIG"]["value"] == "/registry"
    assert env["HF_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "hf-secret", "key": "token"}


def test_an_engine_pulled_before_the_server_is_pulled_with_its_gpu_and_cache() -> None:
    spec = pod(CASES["gateway"])
    (init,), (server,) = spec["initContainers"], spec["containers"]
    assert init["command"] == ["python", "-m", "runtime.registry"]
    assert init["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {mount["name"] for mount in init["volumeMounts"]} == {mount["name"] for mount in server["volumeMounts"]}


@pytest.mark.parametrize("case", ["claim", "volume"])
def test_a_volume_without_an_engine_ends_the_pod_with_words(case: str, tmp_path: Path) -> None:
    """The very command of the manifest, with a folder of this machine in the place of the container's."""
    (init,) = pod(CASES[case])["initContainers"]
    command = [word.replace("/app/engine", str(tmp_path)) for word in init["command"]]
    empty = subprocess.run(command, capture_output=True, text=True, check=False)
    assert empty.returncode == 1
    assert empty.stderr.startswith("no engine.json in the ")
    assert CASES[case].engine.source in empty.stderr  # type: ignore[union-attr]
    (tmp_path / "engine.json").touch()
    assert subprocess.run(command, check=False).returncode == 0


def test_an_autoscaled_workload_leaves_replicas_to_the_autoscaler() -> None:
    workload = CASES["keda"]
    scaler = document(workload, "ScaledObject")["spec"]
    assert "replicas" not in document(workload, "Deployment")["spec"]
    assert (scaler["minReplicaCount"], scaler["maxReplicaCount"]) == (2, 8)
    assert scaler["triggers"][0]["metadata"] == {
        "serverAddress": "http://prometheus.monitoring:9090",
        "query": 'sum(trtpack_num_requests_waiting{namespace="models",pod=~"smollm2-135m-[0-9a-z]+-[0-9a-z]+"})',
        "threshold": "8",
    }


def test_the_queue_that_is_scaled_on_is_a_metric_of_the_server() -> None:
    assert WAITING._name == "trtpack_num_requests_waiting"


def test_every_node_of_a_group_is_on_its_gpu_and_leaders_alone_answer() -> None:
    workload = CASES["group"]
    group = document(workload, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    leader, worker = group["leaderTemplate"]["spec"], group["workerTemplate"]["spec"]
    assert leader["nodeSelector"] == worker["nodeSelector"]
    assert leader["tolerations"] == worker["tolerations"]
    assert "readinessProbe" in leader["containers"][0] and "readinessProbe" not in worker["containers"][0]
    assert document(workload, "Service")["spec"]["selector"]["leaderworkerset.sigs.k8s.io/worker-index"] == "0"
