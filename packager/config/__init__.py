"""config.yaml of a model package: `load` reads and checks it."""

from packager.config.engine import EngineConfig
from packager.config.package import PackageConfig
from packager.config.reader import load
from packager.config.values import Accelerator

__all__ = ["Accelerator", "EngineConfig", "PackageConfig", "load"]
