"""kubectl, on the cluster that KUBECONFIG names; tests are skipped where it names none."""

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

ACCELERATOR = "cloud.google.com/gke-accelerator"
DRIVER = "cloud.google.com/gke-gpu-driver-version"


def kubectl(*arguments: str, text: str | None = None) -> str:
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster")
    done = subprocess.run(["kubectl", *arguments], input=text, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def listed(*arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(kubectl("get", *arguments, "--output", "json"))["items"]
    return found


@contextmanager
def new_namespace() -> Iterator[str]:
    """What holds a GPU in it is gone when this ends; the rest soon after."""
    name = f"trtpack-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    try:
        yield name
    finally:
        # Before their pods, which a ReplicaSet would make anew.
        for owners in "deployments", "replicasets,jobs":
            kubectl("delete", owners, "--all", "--cascade=orphan", "--namespace", name)
        kubectl("delete", "pods", "--all", "--force", "--grace-period=0", "--namespace", name)
        kubectl("delete", "namespace", name, "--wait=false")
