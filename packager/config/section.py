"""What every section of config.yaml shares."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A mapping of config.yaml: its fields, no others, and no change once read."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
