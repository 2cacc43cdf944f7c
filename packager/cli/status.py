"""`trtpack status`: how what was deployed stands."""

import json

import click

from k8s.deploy import nodes, removal, rollout
from k8s.deploy.cluster import Cluster, Document
from k8s.deploy.documents import named, of_kind
from k8s.deploy.rollout import Rollout
from packager.cli import kube
from packager.errors import TrtpackError


@click.command()
@click.argument("target", metavar="[DIR|[NS/]NAME]", default=".")
@kube.options
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def command(target: str, namespace: str | None, context: str | None, as_json: bool) -> None:
    """Show how the package in DIR, or the deployment NAME, stands on its cluster.

    One line for its Deployment, with what keeps it from being ready, and one for each pod: its node, its GPUs, its
    state and how often it was started again. Ends with 1 where it is not ready.

    \b
    Example:
      trtpack status smollm
      trtpack status models/smollm --json
    """
    with kube.connected(context, namespace) as cluster:
        where, name = kube.workload(target, cluster, namespace)
        objects = removal.applied(cluster, where, name)
        if not objects:
            raise TrtpackError(f"nothing is deployed as {where}/{name}", "Bring it up with: trtpack deploy")
        looks = [_look(cluster, each) for each in of_kind(objects, "Deployment")]
    if as_json:
        click.echo(json.dumps({"objects": [named(each) for each in objects], "deployments": list(map(_told, looks))}))
    else:
        for look in looks:
            click.echo(f"{where}/{look.deployment['metadata']['name']}: {look}")
            for pod in [*look.pods, *look.old]:
                click.echo("  " + "  ".join(str(value) for value in _pod(pod).values() if value is not None))
    if not all(look.done for look in looks):
        raise click.exceptions.Exit(1)


def _look(cluster: Cluster, deployment: Document) -> Rollout:
    return rollout.look(cluster, deployment["metadata"]["namespace"], deployment["metadata"]["name"])


def _told(look: Rollout) -> dict[str, object]:
    return {
        "name": look.deployment["metadata"]["name"],
        "namespace": look.deployment["metadata"]["namespace"],
        "wanted": look.wanted,
        "ready": look.ready,
        "done": look.done,
        "trouble": look.trouble.message if look.trouble else None,
        "pods": [_pod(pod) for pod in [*look.pods, *look.old]],
    }


def _pod(pod: Document) -> dict[str, object]:
    gpu, count = nodes.wanted_gpu(pod["spec"]), nodes.wanted_gpus(pod["spec"])
    restarts = sum(each["restartCount"] for each in pod["status"].get("containerStatuses", []))
    return {
        "name": pod["metadata"]["name"],
        "node": pod["spec"].get("nodeName"),
        "gpu": f"{gpu} x{count}" if gpu else None,
        "state": rollout.state(pod) or "ready",
        "restarts": restarts,
    }
