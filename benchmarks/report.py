"""What was measured, and on what, as JSON."""

import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import machine


def write(command: str, results: Any, out: Path | None, packages: Sequence[str]) -> None:
    """To `out`, or standard output; with the versions of those packages."""
    content = json.dumps(
        {
            "command": command,
            "machine": machine.described(),
            "versions": {package: version(package) for package in packages},
            "results": results,
        },
        indent=2,
    )
    if out:
        out.write_text(content + "\n", encoding="utf-8")
    else:
        sys.stdout.write(content + "\n")
