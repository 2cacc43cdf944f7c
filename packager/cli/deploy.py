"""`trtpack deploy`: the package's manifests, applied to a cluster and followed until its pods are ready."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from k8s.deploy.change import Change, apply, prune
from k8s.deploy.cluster import Cluster, Document
from k8s.deploy.documents import documents, named, of_kind
from k8s.deploy.preflight import check
from k8s.deploy.rollout import follow
from packager import progress
from packager.cli import kube
from packager.cli.workload import asked_workload, rendered, workload_options
from packager.errors import TrtpackError


@click.command()
@click.argument("directory", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@workload_options
@kube.context_option
@click.option("--new-nodes", is_flag=True, help="The cluster makes nodes on demand: wait for one with this GPU.")
@click.option("--dry-run", type=click.Choice(["server"]), help="Let the API server say what it would do.")
@click.option("--diff", is_flag=True, help="Show what would change in the cluster, change nothing.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Until every pod is ready.")
@click.option(
    "--timeout", default=1800, show_default=True, type=click.IntRange(1), help="How long to wait, in seconds."
)
def command(
    directory: Path,
    context: str | None,
    new_nodes: bool,
    dry_run: str | None,
    diff: bool,
    wait: bool,
    timeout: int,
    **options: Any,
) -> None:
    """Bring the package in DIR up on a Kubernetes cluster.

    What `trtpack render` writes is applied, and followed until every pod is ready, or told in one sentence what keeps
    it. Before that it looks whether the cluster has the GPU, the namespace, the secrets and the kinds that are needed.
    Calling it again changes nothing where nothing differs, and finishes what was broken off. What an earlier call
    applied and the manifests no longer hold is removed.

    \b
    Example:
      trtpack deploy smollm --image europe-docker.pkg.dev/me/models/smollm:1
      trtpack deploy smollm --image europe-docker.pkg.dev/me/models/smollm:2 --diff
    """
    workload = asked_workload(directory, options)
    files = rendered(workload)
    with kube.connected(context, workload.namespace) as cluster:
        objects = documents(files, cluster.namespace)
        if diff:
            _show(_changed(cluster, objects, dry_run=True))
            return
        _preflight(cluster, objects, new_nodes)
        # The API server refuses one of them now, or none when it counts.
        tried = _changed(cluster, objects, dry_run=True)
        if dry_run:
            _tell(tried, " (server dry run)")
            return
        with _whole():
            changes = _changed(cluster, objects)
        _tell(changes)
        if all(change.verb == "unchanged" for change in changes):
            click.echo(_nothing_changed(workload.image))
        if wait:
            _follow(cluster, objects, timeout)


def _changed(cluster: Cluster, objects: Sequence[Document], dry_run: bool = False) -> list[Change]:
    return [*apply(cluster, objects, dry_run), *prune(cluster, objects, dry_run)]


def _show(changes: Sequence[Change]) -> None:
    click.echo("".join(change.diff() for change in changes), nl=False)
    if all(change.verb == "unchanged" for change in changes):
        click.echo("nothing would change")


def _tell(changes: Sequence[Change], how: str = "") -> None:
    for change in changes:
        click.echo(f"{change.name} {change.verb}{how}")


def _nothing_changed(image: str) -> str:
    """With what to do where a new build was meant: a tag reads the same whatever it names by now."""
    hint = "" if "@" in image else f"; for a new build of {image}, name it by another tag or digest"
    return f"nothing changed{hint}"


def _preflight(cluster: Cluster, objects: Sequence[Document], new_nodes: bool) -> None:
    findings = list(check(cluster, objects, new_nodes))
    for each in findings:
        if each.note:
            progress.note(f"note: {each.message}")
    if amiss := [each for each in findings if not each.note]:
        hints = dict.fromkeys(each.hint for each in amiss if each.hint)
        raise TrtpackError("\n".join(each.message for each in amiss), "\n  ".join(hints) or None)


def _follow(cluster: Cluster, objects: Sequence[Document], timeout: int) -> None:
    for each in of_kind(objects, "Deployment"):
        namespace, name = each["metadata"]["namespace"], each["metadata"]["name"]
        try:
            with progress.task(f"Rolling out {name}") as advance:
                follow(cluster, namespace, name, _teller(advance), timeout)
        except KeyboardInterrupt:
            progress.note(f"the rollout goes on; see: trtpack status {namespace}/{name}")
            raise
    for each in of_kind(objects, "LeaderWorkerSet"):
        progress.note(f"note: {named(each)} is applied, and not followed; see: kubectl get pods --watch")
    service = next((each["metadata"] for each in of_kind(objects, "Service")), None)
    if service:
        click.echo(f'\nNext:\n  trtpack predict "What is a mistral?" --kube {service["namespace"]}/{service["name"]}')


def _teller(advance: progress.Advance) -> Callable[[str], None]:
    """A line beside the bar on a terminal, a line of its own elsewhere."""
    return (lambda text: advance(0, text)) if progress.console.is_terminal else progress.note


@contextmanager
def _whole() -> Iterator[None]:
    """Runs the body to its end: an interrupt that comes meanwhile is heard then."""
    came: list[int] = []

    def hold(number: int, _: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt
