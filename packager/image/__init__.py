"""From a package folder to a container image: the build context, and an engine that builds and runs it."""

from packager.image.context import printed, write_context
from packager.image.docker import build
from packager.image.options import Options, platform

__all__ = ["Options", "build", "platform", "printed", "write_context"]
