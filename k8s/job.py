"""Compile job in, manifest out: a Job whose pod goes to the very nodes that the server's pods go to."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

from k8s.policy import ManifestError
from k8s.text import Templates

Document = dict[str, Any]

# What of the server's pod says where it goes, and as whom.
_PLACEMENT = (
    "nodeSelector",
    "affinity",
    "tolerations",
    "priorityClassName",
    "serviceAccountName",
    "imagePullSecrets",
    "securityContext",
)
# What of its environment is of no use here.
_SERVING = {"INFERENCE_SERVER_PORT", "DOCKER_CONFIG", "TRTPACK_CACHE_DIR", "TRTPACK_ENGINE_SOURCE"}
_LONGEST_NAME = 63


@dataclass(frozen=True, kw_only=True)
class CompileJob:
    """One compile, on the nodes where `server`, a Deployment, is to serve what comes of it. Times are seconds.

    `image` is that of the compiler, by digest, and `arguments` what it is called with; `config` is the text of
    config.yaml, which the pod reads at /app. `scratch` is the disk for checkpoint and engine. `registry_secret` names
    a Secret of the type kubernetes.io/dockerconfigjson, by which the image is pulled and the engine pushed.
    `keep_seconds` is how long the finished Job, its log and its result stay. The Hub's token is the key hf_access_token
    of the server's Secret, if it is there.
    """

    server: Document
    image: str
    arguments: tuple[str, ...]
    config: str
    scratch: str = "50Gi"
    registry_secret: str | None = None
    deadline_seconds: int = 4 * 3600
    keep_seconds: int = 24 * 3600

    @property
    def name(self) -> str:
        """The same for the same job, so that it is run once: whoever asks again is told of the first one's."""
        return self._named(hashlib.sha256(_rendered(self, "").encode()).hexdigest()[:10])

    @property
    def app(self) -> str:
        """No label of the server's own: its Service is not to choose the compiler's pod."""
        return self._named("")

    def _named(self, suffix: str) -> str:
        end = f"-compile-{suffix}".rstrip("-")
        return str(self.server["metadata"]["name"])[: _LONGEST_NAME - len(end)].rstrip("-") + end


def render_job(job: CompileJob) -> str:
    """YAML text, the same for the same job. Raises ManifestError."""
    if "@sha256:" not in job.image:
        raise ManifestError(f"the compiler's image {job.image} is not named by digest")
    return _rendered(job, job.name)


def _rendered(job: CompileJob, name: str) -> str:
    server = job.server["spec"]["template"]["spec"]
    (container,) = server["containers"]
    context = {
        "job": job,
        "name": name,
        "namespace": job.server["metadata"].get("namespace"),
        "placement": {key: server[key] for key in _PLACEMENT if key in server},
        "pull_secrets": server.get("imagePullSecrets", []),
        "env": _env(job, container["env"]),
        "resources": _resources(container["resources"], job.scratch),
        "container_security": {"securityContext": container["securityContext"]},
    }
    return Templates().text("job", context)


def deployment(texts: Iterable[str]) -> Document:
    """The one Deployment among rendered manifests. Raises ManifestError."""
    documents = [each for text in texts for each in yaml.safe_load_all(text) if each]
    found: list[Document] = [each for each in documents if each["kind"] == "Deployment"]
    if len(found) != 1:
        raise ManifestError("an engine is compiled for one GPU type, and for one node")
    return found[0]


def _env(job: CompileJob, given: list[Document]) -> list[Document]:
    """The server's own, on the GPU unless that says otherwise: what serves must not fall back to the CPU here."""
    env = [each for each in given if each["name"] not in _SERVING]
    if not any(each["name"] == "TRTPACK_DEVICE" for each in env):
        env.append({"name": "TRTPACK_DEVICE", "value": "cuda"})
    if job.registry_secret:
        env.append({"name": "DOCKER_CONFIG", "value": "/registry"})
    if not any(each["name"] == "HF_TOKEN" for each in env):
        token = {"name": f"{job.server['metadata']['name']}-secrets", "key": "hf_access_token", "optional": True}
        env.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": token}})
    return env


def _resources(server: Document, scratch: str) -> Document:
    return {kind: {**amounts, "ephemeral-storage": scratch} for kind, amounts in server.items()}
