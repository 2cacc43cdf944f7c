"""What goes into the image: `base_image:`, `build:`, `external_data:`. Names, defaults and meaning are Truss 0.18's."""

from typing import Any, Literal

from pydantic import Field, field_validator

from packager.config.section import Section
from packager.config.values import AbsolutePath, InsidePath, SecretName, Text


class CloudAuth(Section):
    """The fields that Truss's cloud logins share."""

    aws_oidc_role_arn: str | None = None
    aws_oidc_region: str | None = None
    gcp_oidc_service_account: str | None = None
    gcp_oidc_workload_id_provider: str | None = None
    aws_assume_role_arn: str | None = None
    aws_assume_role_region: str | None = None


class DockerAuth(CloudAuth):
    auth_method: Literal[
        "GCP_SERVICE_ACCOUNT_JSON", "AWS_IAM", "AWS_OIDC", "GCP_OIDC", "REGISTRY_SECRET", "AWS_ASSUME_ROLE"
    ]
    registry: str | None = ""
    secret_name: str | None = None
    aws_access_key_id_secret_name: str = "aws_access_key_id"
    aws_secret_access_key_secret_name: str = "aws_secret_access_key"


class BaseImage(Section):
    """Empty text takes the default: our own base image, and `python3` on its PATH."""

    image: str = ""
    python_executable_path: AbsolutePath = ""
    docker_auth: DockerAuth | None = None


class Build(Section):
    """`secret_to_path_mapping` is secret name to path in the image, while it is built."""

    model_server: Literal["TrussServer", "TRT_LLM"] = "TrussServer"
    arguments: dict[str, Any] = Field(default_factory=dict)
    secret_to_path_mapping: dict[SecretName, str] = Field(default_factory=dict)
    no_cache: bool = False

    @field_validator("no_cache")
    @classmethod
    def _only_on_the_command_line(cls, value: bool) -> bool:
        if value:
            raise ValueError("expected false: Truss takes no_cache on its command line only")
        return value


class ExternalDataItem(Section):
    """A file fetched into the data folder; `local_data_path` is relative to it."""

    url: Text
    local_data_path: InsidePath
    backend: str = "http_public"
    name: str | None = None


class ModelRepo(Section):
    """Deprecated by Truss in favour of `weights`."""

    repo_id: Text
    revision: str = ""
    allow_patterns: tuple[str, ...] | None = None
    ignore_patterns: tuple[str, ...] | None = None
    volume_folder: Text | None = None
    use_volume: bool
    kind: Literal["hf", "gcs", "s3", "azure"] = "hf"
    runtime_secret_name: str = "hf_access_token"


class CachedRepo(ModelRepo):
    use_volume: bool = Field(default=False)
