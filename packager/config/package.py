"""The whole of config.yaml: Truss 0.18's fields with its names, defaults and meaning, our `engine:`, `kubernetes:`."""

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from k8s.names import slug
from packager.config.engine import EngineConfig
from packager.config.image import BaseImage, Build, CachedRepo, ExternalDataItem, ModelRepo
from packager.config.kubernetes import Kubernetes
from packager.config.platform import Bdn, BisLlm, TrainingCheckpoints, WeightsSource
from packager.config.resources import Resources
from packager.config.section import Section
from packager.config.serving import DockerServer, Runtime
from packager.config.translation import engine_fields
from packager.config.trt_llm import TrtLlm
from packager.config.values import EnvName, EnvValue, InsidePath, Text


class PackageConfig(Section):
    """A model package. `engine` None: model.py brings its own model, and nothing is compiled.

    Where there is a `trt_llm`, `engine` holds what follows from it too; its own fields come first.
    """

    model_name: str | None = None
    description: str | None = None
    model_metadata: dict[str, Any] = Field(default_factory=dict)

    trt_llm: TrtLlm | None = None
    engine: EngineConfig | None = Field(default=None, validate_default=True)
    resources: Resources = Resources()
    kubernetes: Kubernetes = Kubernetes()
    runtime: Runtime = Runtime()
    environment_variables: dict[EnvName, EnvValue] = Field(default_factory=dict)
    secrets: dict[str, str | None] = Field(default_factory=dict)

    python_version: Literal["py39", "py310", "py311", "py312", "py313", "py314"] = "py313"
    requirements: tuple[str, ...] = ()
    requirements_file: str | None = None
    system_packages: tuple[str, ...] = ()
    build_commands: tuple[str, ...] = ()
    base_image: BaseImage | None = None
    build: Build = Build()
    docker_server: DockerServer | None = None

    model_module_dir: InsidePath = "model"
    model_class_filename: InsidePath = "model.py"
    model_class_name: Text = "Model"
    data_dir: InsidePath = "data"
    bundled_packages_dir: InsidePath = "packages"
    external_package_dirs: tuple[str, ...] = ()
    examples_filename: str = "examples.yaml"

    external_data: tuple[ExternalDataItem, ...] | None = None
    model_cache: tuple[ModelRepo, ...] = ()
    weights: tuple[WeightsSource, ...] = ()
    bdn: Bdn = Bdn()
    training_checkpoints: TrainingCheckpoints | None = None
    bis_llm: BisLlm | None = None

    input_type: str = "Any"
    model_framework: str = "custom"
    model_type: str = "Model"
    use_local_src: bool = False
    cache_internal: tuple[CachedRepo, ...] | None = ()
    live_reload: bool = False
    apply_library_patches: bool = True
    spec_version: str = "2.0"

    @field_validator("engine", mode="before")
    @classmethod
    def _completed_by_trt_llm(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, dict | None) or info.data.get("trt_llm") is None:
            return value
        fields = engine_fields(info.data["trt_llm"]) | (value or {})
        return fields if {"checkpoint", "source"} & fields.keys() else value

    @field_validator("python_version")
    @classmethod
    def _trt_llm_has_its_own(cls, value: str, info: ValidationInfo) -> str:
        """Truss's image for `trt_llm:` brings a Python, whatever config.yaml says; many say one too old for ours."""
        old = value in ("py39", "py310") and info.data.get("trt_llm") is not None
        return str(cls.model_fields["python_version"].default) if old else value

    @field_validator("requirements_file")
    @classmethod
    def _one_list_of_requirements(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value and info.data.get("requirements"):
            raise ValueError("expected requirements or requirements_file, not both")
        return value

    @field_validator("weights")
    @classmethod
    def _one_source_of_weights(
        cls, value: tuple[WeightsSource, ...], info: ValidationInfo
    ) -> tuple[WeightsSource, ...]:
        if value and info.data.get("model_cache"):
            raise ValueError("expected model_cache or weights, not both")
        return value

    @property
    def slug(self) -> str:
        """What the image, the Deployment and the Service are called."""
        return slug(self.model_name or "")
