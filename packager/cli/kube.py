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


def context_option(command: Command) -> Command:
    return click.option("--context", metavar="NAME", help="Of the kubeconfig; without it, the current one.")(command)


def options(command: Command) -> Command:
    """`--namespace` and `--context`."""
    namespace = "Without it that of config.yaml, or the one kubectl is set to."
    return click.option("--namespace", metavar="NS", help=namespace)(context_option(command))


@contextmanager
def connected(context: str | None, namespace: str | None) -> Iterator["Cluster"]:
    """The cluster; whatever it refuses in the body is told as a TrtpackError."""
    from k8s.deploy.cluster import Cluster
    from k8s.deploy.errors import ClusterError

    try:
        yield Cluster.connect(context, namespace)
    except ClusterError as error:
        raise TrtpackError(error.message, error.hint) from error


def workload(text: str, cluster: "Cluster", given: str | None = None) -> tuple[str, str]:
    """Namespace and name of what `text` means: a package's folder, or [NAMESPACE/]NAME; `given` is --namespace."""
    if (Path(text) / "config.yaml").is_file():
        config = load(Path(text))
        return given or config.kubernetes.namespace or cluster.namespace, config.slug
    namespace, slash, name = text.rpartition("/")
    if not name or name == "." or "/" in namespace:
        raise TrtpackError(f"{text}: no config.yaml there, and no [NAMESPACE/]NAME either")
    return (namespace if slash else cluster.namespace), name
