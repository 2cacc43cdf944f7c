"""A checkpoint's JSON files: config.json and its like."""

import json
from pathlib import Path
from typing import Any

from packager.errors import TrtpackError


def read(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises TrtpackError naming the file when it is missing or malformed."""
    if not path.is_file():
        raise TrtpackError(f"{path} is missing", f"{path.parent} does not look like a Hugging Face checkpoint.")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise TrtpackError(f"{path} is not valid JSON: {error}", "Download it again.") from error
    if not isinstance(content, dict):
        raise TrtpackError(f"{path} does not hold a JSON object", "Download it again.")
    return content


def read_optional(path: Path) -> dict[str, Any]:
    """As `read`, but empty where there is no such file."""
    return read(path) if path.is_file() else {}


def write(path: Path, content: Any) -> None:
    """The same text for the same content."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
