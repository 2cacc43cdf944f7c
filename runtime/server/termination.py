"""The pod's termination message: what Kubernetes shows of a container that ended (`kubectl describe pod`)."""

import os
from contextlib import suppress
from pathlib import Path

# The default of a container's terminationMessagePath, and what of it is kept, in bytes
# (kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure).
PATH = Path("/dev/termination-log")
LIMIT = 4096


def write(message: str, path: Path = PATH) -> None:
    """Writes the beginning of `message` into the file that Kubernetes laid there; without one, nothing. Never fails."""
    content = message.encode("utf-8", "replace")[:LIMIT].decode("utf-8", "ignore").encode()
    with suppress(OSError):
        file = os.open(path, os.O_WRONLY | os.O_TRUNC)  # never made where it is not
        try:
            os.write(file, content)
        finally:
            os.close(file)
