"""One cluster's API: JSON in, JSON out. What is asked, and what the answers mean, is for others to say."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import urllib3
from kubernetes import config
from kubernetes.client import ApiClient, Configuration
from kubernetes.config import ConfigException

from k8s.deploy.errors import ClusterError

Document = dict[str, Any]

MANAGER = "trtpack"
_APPLY = "application/apply-patch+yaml"
_TIMEOUT = (10, 60)  # seconds to connect, and without an answer
_KUBECONFIG = "~/.kube/config"
_SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"


class Cluster:
    """The cluster that a kubeconfig names; `namespace` is what its context is set to, and stands where none is given.

    Every method raises ClusterError: what the API server says, with its HTTP status, or that it does not answer.
    """

    def __init__(self, api: ApiClient, namespace: str) -> None:
        self.api, self.namespace = api, namespace
        self._kinds: dict[str, dict[str, Document]] = {}

    @classmethod
    def connect(cls, context: str | None = None, namespace: str | None = None) -> "Cluster":
        """By $KUBECONFIG or ~/.kube/config, else as a pod of the cluster itself."""
        configuration = Configuration()
        # The client reads the variable when it is imported, and no later.
        file = os.environ.get("KUBECONFIG") or _KUBECONFIG
        try:
            config.load_kube_config(file, context, configuration)
            contexts, active = config.list_kube_config_contexts(file)
            found = next(each for each in contexts if each["name"] == context) if context else active
            own = found["context"].get("namespace", "default")
        except ConfigException as error:
            try:
                config.load_incluster_config(client_configuration=configuration)
            except ConfigException:
                message = f"no cluster is set: {error}".replace("\n", " ")
                raise ClusterError(
                    message, "Set one with: kubectl config use-context NAME (or KUBECONFIG=FILE)"
                ) from error
            own = Path(_SERVICE_ACCOUNT).read_text(encoding="utf-8").strip()
        if not configuration.verify_ssl:
            # The kubeconfig's owner decided so; a warning a request would bury the rest.
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        return cls(ApiClient(configuration), namespace or own)

    @cached_property
    def version(self) -> str:
        """As "1.33", of "v1.33.4-gke.1036000": `major` and `minor` are empty in some builds."""
        told: str = self.ask("GET", "/version")["gitVersion"]
        return ".".join(told.removeprefix("v").split(".")[:2])

    def knows(self, api_version: str, kind: str) -> bool:
        return kind in self._resources(api_version)

    def get(self, document: Document) -> Document | None:
        """What the cluster holds under the document's kind, namespace and name."""
        try:
            found: Document = self.ask("GET", self.path(document))
        except ClusterError as error:
            if error.status == 404:
                return None
            raise
        return found

    def find(self, kind: str, name: str, namespace: str | None = None, api_version: str = "v1") -> Document | None:
        metadata = {"name": name, "namespace": namespace or self.namespace}
        return self.get({"apiVersion": api_version, "kind": kind, "metadata": metadata})

    def apply(self, document: Document, dry_run: bool = False) -> Document:
        """Server-side apply: what others set and the document does not stays; what both set is the document's."""
        query = {"fieldManager": MANAGER, "force": "true"} | ({"dryRun": "All"} if dry_run else {})
        applied: Document = self.ask("PATCH", self.path(document), query, document, _APPLY)
        return applied

    def delete(self, document: Document) -> None:
        """And what it owns, before it is gone itself."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"}
        try:
            self.ask("DELETE", self.path(document), body=body)
        except ClusterError as error:
            if error.status != 404:
                raise

    def list(
        self, kind: str, *, api_version: str = "v1", namespace: str | None = None, **selectors: str
    ) -> list[Document]:
        """All of a kind, of every namespace where none is given. `selectors`: labelSelector, fieldSelector."""
        resource = self._resource(api_version, kind)
        where = f"/namespaces/{namespace}" if namespace and resource["namespaced"] else ""
        found = self.ask("GET", f"{_root(api_version)}{where}/{resource['name']}", selectors)
        return [{"apiVersion": api_version, "kind": kind} | item for item in found["items"]]

    def log(self, namespace: str, pod: str, *, follow: bool = False, **query: str) -> Iterator[str]:
        """Its lines; with `follow`, as they come, until the container ends."""
        timeout = (_TIMEOUT[0], None) if follow else _TIMEOUT
        query |= {"follow": "true"} if follow else {}
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        with self._told(path):
            response = self._send("GET", path, query, timeout=timeout).response
            rest = b""
            for chunk in response.stream(65536):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line.decode("utf-8", "replace") for line in lines)
            if rest:
                yield rest.decode("utf-8", "replace")

    def path(self, document: Document) -> str:
        metadata, api_version = document["metadata"], document["apiVersion"]
        resource = self._resource(api_version, document["kind"])
        where = f"/namespaces/{metadata.get('namespace', self.namespace)}" if resource["namespaced"] else ""
        return f"{_root(api_version)}{where}/{resource['name']}/{quote(metadata['name'], safe='')}"

    def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Document | None = None,
        content_type: str = "application/json",
    ) -> Any:
        with self._told(path):
            return json.loads(self._send(method, path, query, body, content_type).read())

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Document | None = None,
        content_type: str = "application/json",
        timeout: tuple[float, float | None] = _TIMEOUT,
    ) -> Any:
        headers = {"Accept": "application/json, */*", "Content-Type": content_type}
        request = self.api.param_serialize(
            method, path, query_params=list((query or {}).items()), header_params=headers, body=body,
            auth_settings=["BearerToken"],
        )  # fmt: skip
        response = self.api.call_api(*request, _request_timeout=timeout)
        if not 200 <= response.status < 300:
            raise _refusal(response.status, response.read())
        return response

    @contextmanager
    def _told(self, path: str) -> Iterator[None]:
        try:
            yield
        except urllib3.exceptions.HTTPError as error:
            reason = getattr(error, "reason", None) or error
            message = f"no API server answers at {self.api.configuration.host}: {reason}"
            raise ClusterError(message, "See: kubectl cluster-info") from error
        except ValueError as error:
            raise ClusterError(
                f"{self.api.configuration.host}{path} answers with no JSON; is it an API server?"
            ) from error

    def _resource(self, api_version: str, kind: str) -> Document:
        try:
            return self._resources(api_version)[kind]
        except KeyError:
            raise ClusterError(f"this cluster ({self.version}) has no {api_version} {kind}", status=404) from None

    def _resources(self, api_version: str) -> dict[str, Document]:
        """The kinds of one API group and version, as the cluster lists them; none where it lacks it."""
        if api_version not in self._kinds:
            try:
                listed = self.ask("GET", _root(api_version))["resources"]
            except ClusterError as error:
                if error.status != 404:
                    raise
                listed = []
            self._kinds[api_version] = {each["kind"]: each for each in listed if "/" not in each["name"]}
        return self._kinds[api_version]


def label_selector(labels: Mapping[str, str]) -> str:
    """What `list` takes to choose the objects that have all of these."""
    return ",".join(f"{key}={value}" for key, value in labels.items())


def _root(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def _refusal(status: int, body: bytes) -> ClusterError:
    """What the API server says, which is a Status object, or the body's first line."""
    try:
        message = " ".join(json.loads(body)["message"].split())
    except (ValueError, TypeError, KeyError):
        message = body.decode("utf-8", "replace").partition("\n")[0] or f"status {status}"
    hint = "Sign in to the cluster again; kubectl get pods shows whether that worked." if status == 401 else None
    return ClusterError(f"the cluster answered {status}: {message}", hint, status)
