"""What `trtpack compile --on-cluster` is told, and does."""

import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from packager.cli import kube
from packager.errors import ConfigError

if TYPE_CHECKING:
    from packager.config import Accelerator

F = TypeVar("F", bound=Callable[..., Any])
NAMES = ("image", "namespace", "context", "registry_secret", "scratch", "again", "print_job")


def job_options(function: F) -> F:
    """Adds `--on-cluster` and what goes with it to a command, as parameters of NAMES and `on_cluster`."""
    options: tuple[Callable[..., Any], ...] = (
        click.option("--print-job", is_flag=True, help="Print the Job's manifest, make nothing."),
        click.option("--again", is_flag=True, help="Run a Job once more that has ended."),
        click.option("--scratch", metavar="SIZE", help="The Job's disk for checkpoint and engine; without, 50Gi."),
        click.option("--registry-secret", metavar="NAME", help="The Secret by which the Job pulls and pushes."),
        kube.options,
        click.option("--image", metavar="REF", help="What trtpack build --compiler made, where the cluster pulls it."),
        click.option("--on-cluster", is_flag=True, help="Compile in a Job, on a node with the GPU; needs --push."),
    )
    for option in options:
        function = option(function)
    return function


def check(on_cluster: bool, push: str | None, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raises ConfigError for options that do not go together: `there` are a Job's alone, `here` a local compile's."""
    if not on_cluster:
        if given := next((name for name, value in there.items() if value), None):
            raise ConfigError(f"--{given.replace('_', '-')} goes with --on-cluster")
        return
    if not (push and there["image"]):
        raise ConfigError(
            "--on-cluster needs --image and --push",
            "trtpack compile --on-cluster --image REGISTRY/NAME-compiler:1 --push oci://REGISTRY/NAME-engine:1",
        )
    if given := next((name for name, value in here.items() if value), None):
        raise ConfigError(f"--{given} is of this machine, and the Job is not", "Set it in config.yaml.")


def compile_there(
    directory: Path,
    gpus: "tuple[Accelerator, ...]",
    push: str,
    options: Mapping[str, Any],
    *,
    image: str,
    again: bool,
    scratch: str | None,
    namespace: str | None,
    context: str | None,
    registry_secret: str | None,
    print_job: bool,
    as_json: bool,
) -> None:
    """Runs the Job and tells the engine's reference, or prints its manifest. Raises TrtpackError and ConfigError."""
    from k8s.job import render_job
    from packager import job, progress
    from packager.cli.engine import engine_config
    from packager.cli.workload import rendered
    from packager.compile.target import choose, notes
    from packager.config import load
    from packager.workload import Asked, workload

    package = load(directory)
    engine = engine_config(package.engine, options)
    own = package.resources.accelerator
    chosen = gpus or ((own,) if own else ())
    if len(chosen) != 1:
        raise ConfigError(
            f"a Job compiles for the one GPU that it runs on, and {len(chosen)} are named", "Name it with --gpu NAME."
        )
    for note in notes(choose(chosen, engine, elsewhere=True), engine):
        progress.note(f"note: {note}")
    server = workload(directory, package, Asked(image=image, gpus=chosen, namespace=namespace))
    there = job.compile_job(
        directory,
        engine,
        rendered(server),
        image,
        {"gpu": chosen[0].gpu.name, **options, "push": push},
        registry_secret=registry_secret,
        scratch=scratch or job.SCRATCH,
    )
    if print_job:
        click.echo(render_job(there), nl=False)
        return
    with kube.connected(context, server.namespace) as cluster:
        reference = job.run(cluster, there, again=again)
    pulled = f"\n\nNext:\n  trtpack pull {reference} --out {shlex.quote(str(directory))}"
    click.echo(json.dumps({"pushed": reference}) if as_json else f"{reference}{pulled}")
