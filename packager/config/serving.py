"""How a replica serves: the `runtime:` and `docker_server:` sections. Names, defaults and meaning are Truss 0.18's."""

from typing import Literal, Self

from pydantic import Field, model_validator

from packager.config.section import Section
from packager.config.values import Positive, Text, Whole


class HealthChecks(Section):
    """All in seconds; None leaves the value to whatever runs the replica."""

    restart_check_delay_seconds: Whole | None = None
    restart_threshold_seconds: Whole | None = None
    stop_traffic_threshold_seconds: Whole | None = None
    startup_threshold_seconds: Whole | None = None


class Transport(Section):
    kind: Literal["http", "websocket", "grpc"] = "http"
    ping_interval_seconds: float | None = None
    ping_timeout_seconds: float | None = None


class Oidc(Section):
    enabled: bool | None = None


class RemoteSsh(Section):
    enabled: bool = False


class EgressRestrictions(Section):
    ip_allow_list: tuple[str, ...] | None = None
    fqdn_allow_list: tuple[str, ...] | None = None


class Runtime(Section):
    """`predict_concurrency` requests are in `predict` at once; `streaming_read_timeout` is seconds between chunks."""

    predict_concurrency: Positive = 1
    streaming_read_timeout: Positive = 60
    enable_tracing_data: bool = False
    enable_debug_logs: bool = False
    transport: Transport = Transport()
    is_websocket_endpoint: bool | None = None
    health_checks: HealthChecks = HealthChecks()
    oidc: Oidc = Oidc()
    remote_ssh: RemoteSsh = RemoteSsh()
    egress_restrictions: EgressRestrictions | None = None
    truss_server_version_override: str | None = None
    # Truss accepts the legacy field with this one value.
    num_workers: Literal[1] = Field(default=1, exclude=True)


class DockerServer(Section):
    """A server of the user's own in place of a Model class; its endpoints are HTTP paths."""

    start_command: str | None = None
    server_port: Positive
    predict_endpoint: Text
    readiness_endpoint: Text
    liveness_endpoint: Text
    run_as_user_id: Positive | None = None
    no_build: bool | None = None

    @model_validator(mode="after")
    def _has_a_command(self) -> Self:
        if not self.no_build and self.start_command is None:
            raise ValueError("expected start_command, or no_build: true")
        return self
