"""What is to be served, on which nodes, and with what around it: the data that manifests are rendered from."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from k8s.gpus import Gpu


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Which of the nodes that have the GPU.

    `labels` are those that tell the GPU: GKE's, GPU Feature Discovery's (gfd), or any of the two. GKE's own, ignored
    elsewhere: `driver` (None follows the GPU table), `spot`, `flex_start`, `compute_class`, and `max_shared_clients`.
    `partition` is a MIG profile such as 1g.5gb. `machine_type` is one of the GPU's row. `selector` is further labels.
    """

    labels: Literal["gke", "gfd", "any"] = "gke"
    driver: Literal["default", "latest"] | None = None
    spot: bool = False
    flex_start: bool = False
    compute_class: str | None = None
    machine_type: str | None = None
    partition: str | None = None
    sharing: Literal["time-sharing", "mps"] | None = None
    max_shared_clients: int | None = None
    selector: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine that is not in the image.

    `how`: the server pulls `source`, an oci:// or hf:// reference, when it starts (pull), or an init container does
    before (init); it is the folder `path` of the PersistentVolumeClaim `source` (claim); or the root of the image
    `source`, as an image volume (volume). `registry_secret` is a Secret of type kubernetes.io/dockerconfigjson.
    """

    how: Literal["pull", "init", "claim", "volume"]
    source: str
    path: str = ""
    registry_secret: str | None = None

    @property
    def is_pulled(self) -> bool:
        return self.how in ("pull", "init")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One more GPU type for the same model: what its Deployment has instead of the workload's own."""

    gpu: Gpu
    gpu_count: int = 1
    image: str | None = None
    engine: Engine | None = None


@dataclass(frozen=True, kw_only=True)
class Autoscale:
    """Between `least` and `most` pods, so many that `waiting` requests wait in the queue of each.

    `scaler`: an HPA, which needs the adapter of `metrics` (that of Google's managed Prometheus, or prometheus-adapter),
    or KEDA, which asks the Prometheus at `server`, as the ClusterTriggerAuthentication `auth` if one is named.
    """

    most: int
    least: int = 1
    waiting: int = 8
    scaler: Literal["hpa", "keda"] = "hpa"
    metrics: Literal["gmp", "prometheus"] = "gmp"
    server: str | None = None
    auth: str | None = None


@dataclass(frozen=True, kw_only=True)
class Route:
    """How requests come in from outside: a `kind`, its `host`, and the Gateway (`[NAMESPACE/]NAME`) or ingress class.

    `tls_secret` is for an Ingress; a Gateway has its own certificate.
    """

    kind: Literal["gateway", "ingress"]
    parent: str
    host: str | None = None
    tls_secret: str | None = None


@dataclass(frozen=True, kw_only=True)
class ServiceAccount:
    """The pod's identity; `create` renders it too."""

    name: str
    create: bool = True
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One model to serve. Quantities are Kubernetes' ("4", "500m", "16Gi"); times are seconds.

    `name` is an RFC 1035 label (k8s.names.slug makes one); `namespace` None leaves the choice to kubectl.
    `gpu_count` is GPUs a pod, 0 without a `gpu`; with `variants` there is one Deployment for each of those instead.
    `engine` None: it is in the image. `cache_size` bounds what is pulled, on the node's disk unless `cache_claim`
    names a PersistentVolumeClaim. `secrets` are keys of the Secret `{name}-secrets`, which the pod reads as files under
    /secrets; `secret_env` are variables, each from a (Secret, key); their values are never part of a manifest.
    `load_seconds` bounds a start, from the first process to ready; `drain_seconds` pass between the end of new requests
    and SIGTERM; `grace_seconds` bound a stop, from the drain to the kill. `spare_gpu`: a rollout may start the new pod
    before it stops the old one. `allowed_namespaces` None lets every pod of the cluster in.
    `group_size` is nodes a replica: above 1 it is a LeaderWorkerSet.
    """

    name: str
    image: str
    namespace: str | None = None
    create_namespace: bool = False
    version: str | None = None
    replicas: int = 1
    gpu: Gpu | None = None
    gpu_count: int = 0
    variants: tuple[Variant, ...] = ()
    nodes: Nodes = Nodes()
    group_size: int = 1
    cpu: str = "1"
    memory: str = "2Gi"
    ephemeral_storage: str = "10Gi"
    engine: Engine | None = None
    cache_size: str | None = None
    cache_claim: str | None = None
    port: int = 8080
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    secrets: tuple[str, ...] = ()
    secret_env: Mapping[str, tuple[str, str]] = field(default_factory=dict, hash=False)
    image_pull_secrets: tuple[str, ...] = ()
    service_account: ServiceAccount | None = None
    priority_class: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    load_seconds: int = 1800
    drain_seconds: int = 10
    grace_seconds: int = 130
    spare_gpu: bool = False
    disruption_budget: bool = False
    autoscale: Autoscale | None = None
    monitoring: Literal["gmp", "prometheus"] | None = None
    allowed_namespaces: tuple[str, ...] | None = None
    route: Route | None = None
    part_of: str | None = None

    @property
    def app(self) -> str:
        """The name of the whole, which the Deployments of all its GPU types share."""
        return self.part_of or self.name

    def deployments(self) -> tuple["Workload", ...]:
        """Each of its Deployments as a workload of its own: itself, or one for each variant, named after the GPU."""
        return tuple(
            replace(
                self,
                name=f"{self.name}-{each.gpu.name.removeprefix('nvidia-')}",
                part_of=self.name,
                gpu=each.gpu,
                gpu_count=each.gpu_count,
                image=each.image or self.image,
                engine=each.engine or self.engine,
                variants=(),
            )
            for each in self.variants
        ) or (self,)


# Reading an engine from disk or a registry in the region, and copying it to the GPU, on the slow side: docs/06 saw
# 18 MB/s through one proxy, a machine's own disk or network gives hundreds.
_PULL_BYTES_S, _LOAD_BYTES_S = 20e6, 100e6
_START_SECONDS = 300
# A full batch of a large model on a small GPU; faster ones end sooner. Node scale-down waits for 600 s at most
# (cloud.google.com/kubernetes-engine/docs/concepts/cluster-autoscaler).
_TOKENS_S, _LONGEST_DRAIN = 20, 600


def load_seconds(engine_bytes: int, pulled: bool) -> int:
    """How long a start may take with an engine of this size, `pulled` first or not; a whole number of minutes."""
    seconds = _START_SECONDS + engine_bytes / _LOAD_BYTES_S + (engine_bytes / _PULL_BYTES_S if pulled else 0)
    return -int(-seconds // 60) * 60


def grace_seconds(longest_tokens: int, drain_seconds: int) -> int:
    """How long a stop may take while one answer of `longest_tokens` has just begun; at most 600 after the drain."""
    return drain_seconds + min(max(longest_tokens // _TOKENS_S, 60), _LONGEST_DRAIN)
