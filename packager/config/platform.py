"""Sections that only Baseten's platform can honour: read, checked for spelling and type, and otherwise left alone.

Names and defaults are Truss 0.18's.
"""

from typing import Any, Literal

from pydantic import Field

from packager.config.image import CloudAuth
from packager.config.section import Section
from packager.config.values import AbsolutePath, Text


class WeightsAuth(CloudAuth):
    auth_method: Literal["CUSTOM_SECRET", "AWS_OIDC", "GCP_OIDC", "AWS_ASSUME_ROLE"]
    auth_secret_name: str | None = None


class WeightsSource(Section):
    source: Text
    mount_location: AbsolutePath = Field(min_length=1)
    auth: WeightsAuth | None = None
    auth_secret_name: str | None = None
    allow_patterns: tuple[str, ...] | None = None
    ignore_patterns: tuple[str, ...] | None = None


class BdnMount(Section):
    source: Text
    path: AbsolutePath = Field(min_length=1)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


class BdnAccess(Section):
    namespace: Text
    grants: tuple[Literal["pull", "push", "tag", "inspect", "delete"], ...] = Field(min_length=1)


class BdnHotload(Section):
    enabled: bool = False


class Bdn(Section):
    """Volumes of the Baseten Delivery Network."""

    mounts: tuple[BdnMount, ...] = ()
    access: tuple[BdnAccess, ...] = ()
    hotload: BdnHotload = BdnHotload()


class TrainingArtifact(Section):
    training_job_id: str
    paths: tuple[str, ...] = ()


class TrainingCheckpoints(Section):
    download_folder: str = "/tmp/training_checkpoints"
    artifact_references: tuple[TrainingArtifact, ...] = ()
    loops_checkpoint_ids: tuple[str, ...] = ()


class AutoscalingMetric(Section):
    name: str
    target: float


class AdditionalAutoscaling(Section):
    metrics: tuple[AutoscalingMetric, ...]


class BisLlm(Section):
    config: dict[str, Any] | None = None
    version: str = ""
    additional_autoscaling_config: AdditionalAutoscaling | None = None
