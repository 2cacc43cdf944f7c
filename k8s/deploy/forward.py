"""A local port whose connections lead to a pod's, through the API server.

The Kubernetes client's own port-forward is not used, only its websocket: while it connects it swaps a method of the
ApiClient, and two connections at once leave that swapped for good (kubernetes/stream/stream.py, 37.0: tried); and it
reads ahead of a slow reader without a bound.
Protocol: v4.channel.k8s.io, one data and one error channel a port, each opened by a frame with the port's number
(kubernetes/kubelet, pkg/cri/streaming/portforward/websocket.go).
"""

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from kubernetes.stream.ws_client import create_websocket, get_websocket_url
from websocket import ABNF, WebSocketException

from k8s.deploy.cluster import Cluster, Document, label_selector
from k8s.deploy.errors import ClusterError
from k8s.deploy.rollout import is_ready

_DATA = b"\x00"


@contextmanager
def forwarded(cluster: Cluster, namespace: str, pod: str, port: int) -> Iterator[int]:
    """Listens on a free port of 127.0.0.1 while the body runs; yields it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=_accept, args=(listener, cluster, namespace, pod, port), daemon=True)
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


def endpoint(cluster: Cluster, namespace: str, service: str) -> tuple[str, int]:
    """A ready pod behind the Service, the newest, and its port. Raises ClusterError where there is none."""
    found = cluster.find("Service", service, namespace)
    if found is None:
        raise ClusterError(f"there is no Service {service} in {namespace}", "See what is: kubectl get services", 404)
    selector = label_selector(found["spec"]["selector"])
    pods = cluster.list("Pod", namespace=namespace, labelSelector=selector)
    ready = [pod for pod in pods if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]]
    if not ready:
        raise ClusterError(
            f"no pod of {namespace}/{service} is ready", f"See why: trtpack status {namespace}/{service}"
        )
    newest = max(ready, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    return newest["metadata"]["name"], _port(newest, found["spec"]["ports"][0])


def _port(pod: Document, port: Document) -> int:
    target = port.get("targetPort", port["port"])
    if isinstance(target, int):
        return target
    ports = [each for container in pod["spec"]["containers"] for each in container.get("ports", [])]
    return next(int(each["containerPort"]) for each in ports if each.get("name") == target)


def _accept(listener: socket.socket, cluster: Cluster, namespace: str, pod: str, port: int) -> None:
    with suppress(OSError):
        while True:
            local, _ = listener.accept()
            threading.Thread(target=_serve, args=(local, cluster, namespace, pod, port), daemon=True).start()


def _serve(local: socket.socket, cluster: Cluster, namespace: str, pod: str, port: int) -> None:
    # A connection that fails is closed, and whoever opened it sees that.
    with local, suppress(OSError, WebSocketException):
        remote = _open(cluster, namespace, pod, port)
        try:
            _carry(local, remote)
        finally:
            remote.close()


def _open(cluster: Cluster, namespace: str, pod: str, port: int) -> Any:
    path, query = f"/api/v1/namespaces/{namespace}/pods/{pod}/portforward", [("ports", str(port))]
    _, url, headers, *_ = cluster.api.param_serialize("GET", path, query_params=query, auth_settings=["BearerToken"])
    lower = {name.lower(): value for name, value in headers.items()}
    lower["sec-websocket-protocol"] = "v4.channel.k8s.io"
    return create_websocket(cluster.api.configuration, get_websocket_url(url), lower)


def _carry(local: socket.socket, remote: Any) -> None:
    """Both ways, in one thread, until either side ends."""
    opened: set[int] = set()
    while True:
        # What TLS has read but not handed out is seen by no select.
        buffered = getattr(remote.sock, "pending", int)()
        ready = [remote.sock] if buffered else select.select([local, remote.sock], [], [])[0]
        if remote.sock in ready:
            opcode, frame = remote.recv_data_frame(True)
            if opcode == ABNF.OPCODE_CLOSE:
                return
            if opcode == ABNF.OPCODE_BINARY and frame.data:
                channel, data = frame.data[0], frame.data[1:]
                if channel not in opened:
                    opened.add(channel)
                elif channel:
                    return
                else:
                    local.sendall(data)
        elif data := local.recv(65536):
            remote.send_binary(_DATA + data)
        else:
            return
