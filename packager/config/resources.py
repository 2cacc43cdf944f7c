"""The `resources:` section: what one replica runs on. Names, defaults and meaning are Truss 0.18's."""

from pydantic import Field

from packager.config.section import Section
from packager.config.values import AcceleratorValue, Cpu, Memory, Positive


class Fabric(Section):
    use_rdma: bool | None = None
    preferences: tuple[str, ...] | None = None


class Resources(Section):
    """`cpu` and `memory` are Kubernetes quantities; `accelerator` is `NAME` or `NAME:COUNT`, None for the CPU."""

    cpu: Cpu = "1"
    memory: Memory = "2Gi"
    accelerator: AcceleratorValue = None
    instance_type: str | None = None
    node_count: Positive | None = None
    fabric: Fabric | None = None
    # Truss derives it from `accelerator` and ignores what the file says; so do we.
    use_gpu: bool | None = Field(default=None, exclude=True)
