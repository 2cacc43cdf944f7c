"""Pulls the engine of the package at hand before its server starts, which finds it in the cache: an init container."""

import sys

from runtime.errors import EngineError
from runtime.registry.source import located
from runtime.server import logs, termination


def main() -> None:
    logs.configure()
    try:
        located("engine")
    except EngineError as error:
        termination.write(str(error))
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
