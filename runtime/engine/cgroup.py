"""What the container's control group says, version 2 or 1, where its files are mounted."""

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def read(name: str) -> str | None:
    """A file's text without white space around it; None where there is none."""
    try:
        return (ROOT / name).read_text().strip()
    except OSError:
        return None
