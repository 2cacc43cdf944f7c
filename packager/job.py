"""A compile that runs on a cluster: what was asked for here as a Job there, followed to the engine's reference."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from k8s.deploy.cluster import Cluster
from k8s.deploy.errors import ClusterError
from k8s.deploy.job import Job
from k8s.job import CompileJob, deployment, render_job
from k8s.policy import ManifestError
from packager import progress
from packager.config import EngineConfig
from packager.errors import ConfigError, TrtpackError
from packager.image.redact import redact
from runtime.hub import SCHEME as HUB
from runtime.hub import Source
from runtime.registry import oci
from runtime.registry.client import Registry
from runtime.registry.reference import Reference

# Where the image has the package, and where a pod may write.
_PACKAGE, _ENGINE = "/app", "/tmp/engine"
SCRATCH = CompileJob.scratch
_AGAIN = "Run it once more with: --again"


def compile_job(
    package: Path,
    engine: EngineConfig,
    server: Mapping[str, str],
    image: str,
    options: Mapping[str, str | None],
    *,
    registry_secret: str | None = None,
    scratch: str = SCRATCH,
) -> CompileJob:
    """The Job for `engine`, the config with the command's `options` in it, where `server`'s manifests go.

    A checkpoint of the Hub is pinned to the commit that its revision names now, and an image to its digest. Raises
    TrtpackError and RegistryError where these cannot be asked for, ConfigError for a checkpoint that is not there, or
    a server on several GPU types.
    """
    try:
        serving = deployment(server.values())
    except ManifestError as error:
        raise ConfigError(str(error), "Name one with --gpu.") from error
    words = {**options, "out": _ENGINE}
    if checkpoint := _pinned_checkpoint(package, engine.checkpoint):
        words["checkpoint"] = checkpoint
    pairs = [(f"--{name.replace('_', '-')}", value) for name, value in words.items() if value is not None]
    return CompileJob(
        server=serving,
        image=_pinned_image(image),
        arguments=("compile", _PACKAGE, *(str(word) for pair in pairs for word in pair)),
        config=redact((package / "config.yaml").read_text(encoding="utf-8")),
        scratch=scratch,
        registry_secret=registry_secret,
    )


def run(cluster: Cluster, job: CompileJob, *, again: bool = False) -> str:
    """Makes the Job, or finds it, and follows it; returns the reference of the engine that it pushed.

    `again`: one that has ended is run anew. Raises ClusterError with the reason why there is no engine.
    """
    submitted = Job(cluster, yaml.safe_load(render_job(job)))
    where = f"Job {submitted.name} in {submitted.namespace}"
    if again and submitted.ended():
        submitted.remove()
    made = submitted.submit()
    try:
        progress.note(f"{where}{'' if made else ' is there already'}")
        with progress.task("Compiling on the cluster"):
            said = submitted.follow(progress.note, lambda line: progress.note(f"  {line}"))
    except KeyboardInterrupt:
        stop = f"kubectl delete job {submitted.name} --namespace {submitted.namespace}"
        progress.note(f"\n{where} goes on. To follow it again, run the same command; to stop it: {stop}")
        raise
    except ClusterError as error:
        hint = " ".join(filter(None, (error.hint, _AGAIN if submitted.ended() else None)))
        raise ClusterError(f"{where}: {error.message}", hint or None) from error
    if not said.startswith((HUB, "oci://")):
        raise ClusterError(f"{where} is complete, and what it pushed is not known any more: its pod is gone", _AGAIN)
    return said.strip()


def _pinned_checkpoint(package: Path, source: str) -> str | None:
    """The checkpoint by commit; None where it is as config.yaml says, which then the Job reads itself."""
    named = Source.parse(source)
    if named:
        from packager.checkpoint.hub import read_config

        return str(Source(named.repo, read_config(source)[1]))
    inside = (package / source).resolve().is_relative_to(package.resolve())
    if "://" not in source and not inside:
        raise ConfigError(
            f"the checkpoint {source} is on this machine, and the Job is not",
            "Name one that the cluster can reach, hf://ORG/NAME or https://…, or put it into the package's data/.",
        )
    return None


def _pinned_image(image: str) -> str:
    """By digest: a tag may be another image by the time that the pod starts."""
    if "@sha256:" in image:
        return image
    reference = Reference.parse(image)
    with Registry(reference) as registry:
        content = registry.manifest(reference.name)
    if content is None:
        raise TrtpackError(f"there is no image {image}", "Push it: trtpack build --compiler, then trtpack push.")
    return str(reference.at(oci.digest_of(content))).removeprefix("oci://")
