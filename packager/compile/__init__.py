"""From a checkpoint to an engine folder."""

from packager.compile.engine import compile_engine

__all__ = ["compile_engine"]
