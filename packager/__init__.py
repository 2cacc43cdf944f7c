"""The tool on a person's machine: command line, config, checkpoints, compile, build, registries."""

import sys


def main() -> None:
    """The `trtpack` command; in a serving-only install it says what is missing."""
    try:
        from packager.cli import console
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] in {"packager", "runtime", "k8s"}:
            raise
        sys.exit(f"trtpack: {error.name} is not installed; the command line needs: pip install 'trtpack[package]'")
    console()
