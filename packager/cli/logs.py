"""`trtpack logs`: what the pods of a deployment say."""

from collections.abc import Callable, Sequence
from functools import partial
from threading import Thread

import click

from k8s.deploy.cluster import Cluster, Document
from k8s.deploy.errors import ClusterError
from packager.cli import kube
from packager.errors import TrtpackError


@click.command()
@click.argument("target", metavar="[DIR|[NS/]NAME]", default=".")
@kube.options
@click.option("--follow", "-f", is_flag=True, help="Go on with what they say from now on.")
@click.option("--previous", is_flag=True, help="Of the container before the last restart: why it ended.")
@click.option("--tail", metavar="N", type=click.IntRange(0), help="Only the last N lines of each pod.")
def command(
    target: str, namespace: str | None, context: str | None, follow: bool, previous: bool, tail: int | None
) -> None:
    """Show the logs of the package in DIR, or of the deployment NAME, on its cluster.

    With several pods, each line begins with its pod's name.

    \b
    Example:
      trtpack logs smollm --follow
      trtpack logs models/smollm --previous --tail 20
    """
    query = ({"previous": "true"} if previous else {}) | ({} if tail is None else {"tailLines": str(tail)})
    with kube.connected(context, namespace) as cluster:
        where, name = kube.workload(target, cluster, namespace)
        pods = cluster.list("Pod", namespace=where, labelSelector=f"app.kubernetes.io/name={name}")
        if not pods:
            raise TrtpackError(f"{where}/{name} has no pod", f"See why: trtpack status {where}/{name}")
        pods.sort(key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        lines = [partial(_print, cluster, pod, len(pods) > 1, follow, query) for pod in pods]
        if follow:
            _at_once(lines)
        else:
            for each in lines:
                each()


def _at_once(work: Sequence[Callable[[], None]]) -> None:
    """A thread each; one that fails ends the command when all have ended. None of them holds up an interrupt."""
    failures: list[ClusterError] = []

    def run(each: Callable[[], None]) -> None:
        try:
            each()
        except ClusterError as error:
            failures.append(error)

    threads = [Thread(target=run, args=(each,), daemon=True) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _print(cluster: Cluster, pod: Document, prefixed: bool, follow: bool, query: dict[str, str]) -> None:
    metadata = pod["metadata"]
    prefix = f"{metadata['name']}: " if prefixed else ""
    for line in cluster.log(metadata["namespace"], metadata["name"], follow=follow, **query):
        click.echo(prefix + line)
