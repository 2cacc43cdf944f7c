"""`trtpack render`: the package's Kubernetes manifests."""

import shlex
from pathlib import Path
from typing import Any

import click

from packager.cli.workload import asked_workload, rendered, workload_options


@click.command()
@click.argument("directory", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@workload_options
@click.option("--out", metavar="FOLDER", type=click.Path(path_type=Path), help="Instead of DIR/manifests or DIR/chart.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["plain", "helm"]),
    default="plain",
    show_default=True,
    help="Files for kubectl and kustomize, or a Helm chart.",
)
@click.option("--stdout", is_flag=True, help="Print the manifests, write nothing.")
def command(directory: Path, out: Path | None, kind: str, stdout: bool, **options: Any) -> None:
    """Write the Kubernetes manifests of the package in DIR.

    A Deployment and a Service whose node selector, toleration and GPU count follow from the GPU in config.yaml, and
    what its kubernetes: section asks for besides. They are plain files to read, change and commit.

    \b
    Example:
      trtpack render smollm --image europe-docker.pkg.dev/me/models/smollm:1
      kubectl apply -k smollm/manifests
      trtpack render smollm --gpu L4 --gpu A100 --set disruption_budget=true --set autoscale.most=4
    """
    from k8s import kustomize

    workload, helm = asked_workload(directory, options), kind == "helm"
    if stdout and helm:
        raise click.UsageError("a chart is a folder of files; --stdout prints manifests")
    files = rendered(workload, chart=helm)
    if stdout:
        click.echo("---\n".join(files.values()), nl=False)
    else:
        folder = out or directory / ("chart" if helm else "manifests")
        _write(folder, files if helm else files | {kustomize.FILE: kustomize.kustomization(files)})
        place = shlex.quote(str(folder))
        click.echo(f"\nNext:\n  {f'helm upgrade --install {workload.name}' if helm else 'kubectl apply -k'} {place}")
    if workload.image == f"{workload.name}:latest":
        click.echo(
            f"note: the image is {workload.image}; name the one you push with --image REGISTRY/NAME:TAG", err=True
        )


def _write(folder: Path, files: dict[str, str]) -> None:
    """Only what changed; what an earlier render left is told of, for `kubectl apply -f` would read it."""
    from packager import swap

    for name, text in files.items():
        path = folder / name
        same = path.is_file() and path.read_text(encoding="utf-8") == text
        if not same:
            path.parent.mkdir(parents=True, exist_ok=True)
            swap.write(path, text.encode())
        click.echo(f"{'kept' if same else 'wrote'} {path}")
    for path in sorted(folder.rglob("*.yaml")):
        if path.relative_to(folder).as_posix() not in files:
            click.echo(f"note: {path} is none of these manifests; delete it if an earlier render wrote it", err=True)
