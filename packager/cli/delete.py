"""`trtpack delete`: what was deployed, removed."""

import click

from k8s.deploy.documents import named
from k8s.deploy.removal import remove
from packager import progress
from packager.cli import kube


@click.command()
@click.argument("target", metavar="[DIR|[NS/]NAME]", default=".")
@kube.options
@click.option("--timeout", default=600, show_default=True, type=click.IntRange(1), help="How long to wait, in seconds.")
def command(target: str, namespace: str | None, context: str | None, timeout: int) -> None:
    """Remove the package in DIR, or the deployment NAME, from its cluster, and wait until it is gone.

    Only what trtpack deploy applied goes. Running answers end first. Secrets and the namespace stay: others may use
    them.

    \b
    Example:
      trtpack delete smollm
      trtpack delete models/smollm
    """
    with kube.connected(context, namespace) as cluster:
        where, name = kube.workload(target, cluster, namespace)
        with progress.task(f"Removing {where}/{name}"):
            gone = remove(cluster, where, name, progress.note, timeout)
    click.echo("\n".join(f"{named(each)} deleted" for each in gone) or f"nothing is deployed as {where}/{name}")
