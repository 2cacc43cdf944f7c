"""The cluster that a command talks to, and which of its workloads it means."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from packager.config import load
from packager.errors import TrtpackError

if TYPE_CHECKING:
    from k8s.deploy.cluster import Cluster

Command = Callable[..., Any]


def options(command: Command) -> Command:
    """`--namespace` and `--context`."""
    command = click.option("--context", metavar="NAME", help="Of the kubeconfig; without it, the current one.")(command)
    return click.option("--namespace", metavar="NS", help="Without it, the one kubectl is set to.")(command)


@contextmanager
def connected(context: str | None, namespace: str | None) -> Iterator["Cluster"]:
    """The cluster; whatever it refuses in the body is told as a TrtpackError."""
    from k8s.deploy.cluster import Cluster
    from k8s.deploy.errors import ClusterError

    try:
        yield Cluster.connect(context, namespace)
    except ClusterError as error:
        raise TrtpackError(error.message, error.hint) from error


def workload(text: str, cluster: "Cluster") -> tuple[str, str]:
    """Namespace and name of what `text` means: a package's folder, or [NAMESPACE/]NAME."""
    if (Path(text) / "config.yaml").is_file():
        return cluster.namespace, load(Path(text)).slug
    namespace, slash, name = text.rpartition("/")
    if not name or name == "." or "/" in namespace:
        raise TrtpackError(f"{text}: no config.yaml there, and no [NAMESPACE/]NAME either")
    return (namespace if slash else cluster.namespace), name
