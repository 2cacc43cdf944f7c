"""From a package folder to a container image: the build context, and a Docker engine that builds it."""

from packager.image.context import write_context
from packager.image.docker import build, platform

__all__ = ["build", "platform", "write_context"]
