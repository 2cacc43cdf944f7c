"""Which file answers a package's requests: its own model.py, or the template's where it brings none."""

from pathlib import Path

from packager.config import PackageConfig
from packager.errors import ConfigError

TEMPLATE = Path(__file__).parents[1] / "model_template"
SUPPLIED = TEMPLATE / "model" / "model.py"
_FIELDS = ("model_module_dir", "model_class_filename", "model_class_name")


def model_file(package: Path, config: PackageConfig) -> Path:
    """The file that holds the Model class; SUPPLIED where the package has an engine and names no file of its own.

    Raises ConfigError for a file that is named, or needed, and is not there.
    """
    own = package / config.model_module_dir / config.model_class_filename
    if own.is_file():
        return own
    default = PackageConfig()
    if config.engine and all(getattr(config, name) == getattr(default, name) for name in _FIELDS):
        return SUPPLIED
    raise ConfigError(f"{own} does not exist")
