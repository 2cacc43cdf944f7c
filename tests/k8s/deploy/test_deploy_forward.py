"""A forwarded port against a small API server that speaks the websocket of a pod's port-forward."""

import base64
import hashlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from kubernetes.client import ApiClient, Configuration
from websocket import ABNF

from k8s.deploy.cluster import Cluster
from k8s.deploy.errors import ClusterError
from k8s.deploy.forward import endpoint, forwarded
from tests.k8s.deploy.objects import Memory, pod, service

PORT = 8080
ANSWER = bytes(range(256)) * 4096  # a megabyte


@dataclass
class Server:
    """What it was asked for, and what came over channel 0; it answers with ANSWER and closes at once."""

    port: int
    requests: list[str] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)

    @property
    def cluster(self) -> Cluster:
        configuration = Configuration()
        configuration.host = f"http://127.0.0.1:{self.port}"
        configuration.api_key = {"BearerToken": "Bearer open-sesame"}
        return Cluster(ApiClient(configuration), "models")


def frame(data: bytes, opcode: int = ABNF.OPCODE_BINARY) -> bytes:
    written: bytes = ABNF(1, 0, 0, 0, opcode, 0, data).format()
    return written


def serve(listener: socket.socket, server: Server) -> None:
    connection, _ = listener.accept()
    with connection:
        reader = connection.makefile("rb")
        request = "".join(iter(lambda: reader.readline().decode().replace("\r", ""), "\n"))
        server.requests.append(request)
        key = next(line.split()[1] for line in request.splitlines() if line.lower().startswith("sec-websocket-key"))
        accept = base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()).decode()
        head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        head += f"Sec-WebSocket-Protocol: v4.channel.k8s.io\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        number = PORT.to_bytes(2, "little")
        connection.sendall(head.encode() + frame(b"\x00" + number) + frame(b"\x01" + number))
        length = reader.read(2)[1] & 0x7F
        mask = reader.read(4)
        server.received.append(bytes(byte ^ mask[i % 4] for i, byte in enumerate(reader.read(length))))
        pieces = [ANSWER[at : at + 50_000] for at in range(0, len(ANSWER), 50_000)]
        connection.sendall(b"".join(frame(b"\x00" + piece) for piece in pieces) + frame(b"", ABNF.OPCODE_CLOSE))


@pytest.fixture
def server() -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = Server(listener.getsockname()[1])
        threading.Thread(target=serve, args=(listener, made), daemon=True).start()
        yield made


def test_nothing_is_lost_where_the_far_end_closes_with_its_last_byte(server: Server) -> None:
    with (
        forwarded(server.cluster, "models", "tiny-1", PORT) as port,
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
    ):
        connection.sendall(b"hello")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer == ANSWER
    assert server.received == [b"\x00hello"]
    assert server.requests[0].startswith("GET /api/v1/namespaces/models/pods/tiny-1/portforward?ports=8080 ")
    assert "authorization: Bearer open-sesame" in server.requests[0]


def test_a_port_that_leads_nowhere_is_closed() -> None:
    with (
        forwarded(Server(1).cluster, "models", "tiny-1", PORT) as port,
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
    ):
        assert connection.recv(1) == b""


def test_the_newest_ready_pod_behind_a_service() -> None:
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    pods = [pod(name, on="a", status=ready) for name in ("old", "new", "ending", "loading")]
    for each, made in zip(pods, ("01", "02", "03", "04"), strict=True):
        each["metadata"] |= {"labels": service()["spec"]["selector"], "creationTimestamp": f"2026-11-{made}T00:00:00Z"}
        each["spec"]["containers"][0]["ports"] = [{"name": "http", "containerPort": PORT}]
    pods[2]["metadata"]["deletionTimestamp"] = "2026-11-21T00:00:00Z"
    pods[3]["status"] = {"phase": "Running"}
    assert endpoint(Memory(service(), *pods), "models", "tiny") == ("new", PORT)
    with pytest.raises(ClusterError, match="no pod of models/tiny is ready"):
        endpoint(Memory(service(), pods[3]), "models", "tiny")
    with pytest.raises(ClusterError, match="no Service tiny in models"):
        endpoint(Memory(), "models", "tiny")
