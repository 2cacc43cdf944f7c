"""The `kubernetes:` section of config.yaml: how replicas run in a cluster. Its parts mirror those of k8s.workload.

It is ours; Truss loads a package that has it and does not read it.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from packager.config.section import Section
from packager.config.values import AcceleratorValue, EnvName, Memory, Positive, Text, Whole


def _secret_key(value: Any) -> tuple[str, str]:
    secret, slash, key = value.partition("/") if isinstance(value, str) else ("", "", "")
    if not (secret and slash and key):
        raise ValueError("expected a Secret and its key, such as hf-secret/token")
    return secret, key


def _variant(value: Any) -> Any:
    return {"gpu": value} if isinstance(value, str) else value


SecretKey = Annotated[
    tuple[str, str], BeforeValidator(_secret_key), PlainSerializer(lambda value: "/".join(value), return_type=str)
]


class Nodes(Section):
    labels: Literal["gke", "gfd", "any"] = "gke"
    driver: Literal["default", "latest"] | None = None
    spot: bool = False
    flex_start: bool = False
    compute_class: Text | None = None
    machine_type: Text | None = None
    partition: Text | None = None
    sharing: Literal["time-sharing", "mps"] | None = None
    max_shared_clients: Annotated[Whole, Field(ge=2, le=48)] | None = None
    selector: dict[str, str] = Field(default_factory=dict)


class Engine(Section):
    """`source` None with pull or init is what `engine.source` of config.yaml names."""

    how: Literal["pull", "init", "claim", "volume"]
    source: Text | None = None
    path: str = ""
    registry_secret: Text | None = None


class GpuVariant(Section):
    """One GPU type of several, written as its name alone where image and engine are those of the others."""

    gpu: AcceleratorValue
    image: Text | None = None
    engine: Engine | None = None


class Autoscale(Section):
    most: Positive
    least: Positive = 1
    waiting: Positive = 8
    scaler: Literal["hpa", "keda"] = "hpa"
    metrics: Literal["gmp", "prometheus"] = "gmp"
    server: Text | None = None
    auth: Text | None = None


class Route(Section):
    kind: Literal["gateway", "ingress"]
    parent: Text
    host: Text | None = None
    tls_secret: Text | None = None


class ServiceAccount(Section):
    name: Text
    create: bool = True
    annotations: dict[str, str] = Field(default_factory=dict)


class Kubernetes(Section):
    """Times in seconds; None leaves a value to what follows from the engine."""

    namespace: Text | None = None
    create_namespace: bool = False
    replicas: Whole = Field(default=1, ge=0)
    gpus: tuple[Annotated[GpuVariant, BeforeValidator(_variant)], ...] = ()
    nodes: Nodes = Nodes()
    engine: Engine | None = None
    cache_size: Memory | None = None
    cache_claim: Text | None = None
    ephemeral_storage: Memory | None = None
    secret_env: dict[EnvName, SecretKey] = Field(default_factory=dict)
    image_pull_secrets: tuple[Text, ...] = ()
    service_account: ServiceAccount | None = None
    priority_class: Text | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    drain_seconds: Whole = Field(default=10, ge=0)
    grace_seconds: Positive | None = None
    spare_gpu: bool = False
    disruption_budget: bool = False
    autoscale: Autoscale | None = None
    monitoring: Literal["gmp", "prometheus"] | None = None
    allowed_namespaces: tuple[Text, ...] | None = None
    route: Route | None = None
