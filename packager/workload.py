"""From a package to the workload that Kubernetes is to run: what config.yaml says, and what follows from its engine."""

from dataclasses import dataclass
from pathlib import Path

from k8s import workload as k8s
from packager.config import Accelerator, PackageConfig
from packager.config.kubernetes import Engine, GpuVariant
from packager.errors import ConfigError
from runtime.engine import manifest
from runtime.engine.manifest import Manifest

_GI = 2**30
_DISK = 10  # GiB for logs and /tmp beside what is pulled


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a command was asked for in place of what config.yaml says; None or nothing leaves that."""

    image: str | None = None
    gpus: tuple[Accelerator, ...] = ()
    namespace: str | None = None
    replicas: int | None = None


def workload(directory: Path, config: PackageConfig, asked: Asked) -> k8s.Workload:
    """What to run for the package in `directory`. Raises ConfigError."""
    own, found = config.kubernetes, _engine(directory)
    _check_autoscale(config)
    gpus = tuple(GpuVariant(gpu=each) for each in asked.gpus) or own.gpus
    accelerator = config.resources.accelerator
    if len(gpus) == 1:
        accelerator = gpus[0].gpu
    variants = tuple(variant for each in gpus if (variant := _variant(each, config))) if len(gpus) > 1 else ()
    alone = gpus[0] if len(gpus) == 1 else GpuVariant(gpu=accelerator)
    engine = _source(alone.engine or own.engine, config)
    pulled = engine is not None and engine.is_pulled
    size = sum(file.size for file in found.files.values()) if found else None
    cache = _gibibytes(size) if pulled and size and not own.cache_claim else 0
    return k8s.Workload(
        name=config.slug,
        image=asked.image or alone.image or f"{config.slug}:latest",
        namespace=asked.namespace or own.namespace,
        create_namespace=own.create_namespace,
        replicas=own.replicas if asked.replicas is None else asked.replicas,
        gpu=accelerator.gpu if accelerator and not variants else None,
        gpu_count=accelerator.count if accelerator and not variants else 0,
        variants=variants,
        nodes=k8s.Nodes(**own.nodes.model_dump()),
        group_size=config.resources.node_count or 1,
        cpu=config.resources.cpu,
        memory=config.resources.memory,
        ephemeral_storage=own.ephemeral_storage or f"{_DISK + cache}Gi",
        engine=engine,
        cache_size=own.cache_size or (f"{cache}Gi" if cache else None),
        cache_claim=own.cache_claim,
        env=config.environment_variables,
        secrets=tuple(config.secrets),
        secret_env=own.secret_env,
        image_pull_secrets=own.image_pull_secrets,
        service_account=k8s.ServiceAccount(**own.service_account.model_dump()) if own.service_account else None,
        priority_class=own.priority_class,
        labels=own.labels,
        load_seconds=_load_seconds(config, size, pulled),
        drain_seconds=own.drain_seconds,
        grace_seconds=own.grace_seconds or _grace_seconds(config, found),
        spare_gpu=own.spare_gpu,
        disruption_budget=own.disruption_budget,
        autoscale=k8s.Autoscale(**own.autoscale.model_dump()) if own.autoscale else None,
        monitoring=own.monitoring,
        allowed_namespaces=own.allowed_namespaces,
        route=k8s.Route(**own.route.model_dump()) if own.route else None,
    )


def _check_autoscale(config: PackageConfig) -> None:
    """Raises ConfigError where the autoscaler would wait for ever: nothing queues in the engine."""
    concurrency, engine = config.runtime.predict_concurrency, config.engine
    if config.kubernetes.autoscale and engine and concurrency <= engine.max_batch_size:
        raise ConfigError(
            "kubernetes.autoscale goes by the engine's queue, and none forms where runtime.predict_concurrency"
            f" ({concurrency}) is not above engine.max_batch_size ({engine.max_batch_size})",
            f"Let more in than one batch takes: predict_concurrency: {4 * engine.max_batch_size}",
        )


def _engine(directory: Path) -> Manifest | None:
    """That of the package, if one was compiled here: its sizes and limits are those of one that was pushed, too."""
    folder = directory / "engine"
    return manifest.read(folder) if (folder / manifest.FILE_NAME).is_file() else None


def _variant(each: GpuVariant, config: PackageConfig) -> k8s.Variant | None:
    if each.gpu is None:
        return None
    return k8s.Variant(
        gpu=each.gpu.gpu,
        gpu_count=each.gpu.count,
        image=each.image,
        engine=_source(each.engine or config.kubernetes.engine, config),
    )


def _source(engine: Engine | None, config: PackageConfig) -> k8s.Engine | None:
    """Where the engine is, if not in the image. A package with `engine.source` has it pulled by the server."""
    named = config.engine.source if config.engine else None
    if engine is None:
        return k8s.Engine(how="pull", source=named) if named else None
    source = engine.source or (named if engine.how in ("pull", "init") else None)
    if source is None:
        raise ConfigError(
            f"kubernetes.engine is to {engine.how} an engine, and does not say which",
            "Name it with source: oci://REGISTRY/NAME:TAG, a PersistentVolumeClaim (claim), or an image (volume).",
        )
    return k8s.Engine(how=engine.how, source=source, path=engine.path, registry_secret=engine.registry_secret)


def _gibibytes(size: int) -> int:
    """Room for an engine of so many bytes, and for kernels and pieces on their way."""
    return -int(-size * 1.1 // _GI) + 1


def _load_seconds(config: PackageConfig, size: int | None, pulled: bool) -> int:
    asked = config.runtime.health_checks.startup_threshold_seconds
    if asked or size is None:
        return asked or k8s.Workload.load_seconds
    return k8s.load_seconds(size, pulled)


def _grace_seconds(config: PackageConfig, found: Manifest | None) -> int:
    drain, longest = config.kubernetes.drain_seconds, config.engine.max_model_len if config.engine else None
    if found:
        longest = found.limits.max_model_len
    return k8s.grace_seconds(longest, drain) if longest else k8s.Workload.grace_seconds - 10 + drain
