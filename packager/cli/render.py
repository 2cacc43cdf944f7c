"""`trtpack render`: the package's Kubernetes manifests."""

import shlex
from pathlib import Path

import click

from k8s.policy import ManifestError
from k8s.render import Workload, render
from packager.cli.gpu import accelerator
from packager.config import Accelerator, PackageConfig, load
from packager.errors import ConfigError


@click.command()
@click.argument("directory", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option("--image", metavar="REF", help="The image to run; without it NAME:latest, after model_name.")
@click.option("--out", metavar="FOLDER", type=click.Path(path_type=Path), help="Instead of DIR/manifests.")
@click.option(
    "--gpu",
    metavar="NAME",
    callback=accelerator,
    help="Instead of the accelerator in config.yaml: L4, A100:2, a GKE label.",
)
@click.option("--namespace", metavar="NS", help="Without it, the one kubectl is set to.")
@click.option("--replicas", default=1, show_default=True, type=click.IntRange(0), help="How many pods.")
@click.option("--stdout", is_flag=True, help="Print the manifests, write nothing.")
def command(
    directory: Path,
    image: str | None,
    out: Path | None,
    gpu: Accelerator | None,
    namespace: str | None,
    replicas: int,
    stdout: bool,
) -> None:
    """Write the Kubernetes manifests of the package in DIR.

    A Deployment and a Service whose node selector, toleration and GPU count follow from the GPU in config.yaml.
    They are plain files to read, change and commit.

    \b
    Example:
      trtpack render smollm --image europe-docker.pkg.dev/me/models/smollm:1
      kubectl apply -f smollm/manifests
    """
    config = load(directory)
    reference = image or f"{config.slug}:latest"
    files = rendered(config, gpu, reference, namespace, replicas)
    if stdout:
        click.echo("---\n".join(files.values()), nl=False)
    else:
        folder = out or directory / "manifests"
        _write(folder, files)
        click.echo(f"\nNext:\n  kubectl apply -f {shlex.quote(str(folder))}")
    if image is None:
        click.echo(f"note: the image is {reference}; name the one you push with --image REGISTRY/NAME:TAG", err=True)


def rendered(
    config: PackageConfig, gpu: Accelerator | None, image: str, namespace: str | None, replicas: int
) -> dict[str, str]:
    """File name to YAML text; `gpu` None takes the one in config.yaml. Raises ConfigError."""
    return _render(_workload(config, gpu or config.resources.accelerator, image, namespace, replicas))


def _workload(
    config: PackageConfig, accelerator: Accelerator | None, image: str, namespace: str | None, replicas: int
) -> Workload:
    startup = config.runtime.health_checks.startup_threshold_seconds
    return Workload(
        name=config.slug,
        image=image,
        namespace=namespace,
        replicas=replicas,
        gpu=accelerator.gpu if accelerator else None,
        gpu_count=accelerator.count if accelerator else 0,
        cpu=config.resources.cpu,
        memory=config.resources.memory,
        env=config.environment_variables,
        secrets=tuple(config.secrets),
        load_seconds=startup or Workload.load_seconds,
    )


def _render(workload: Workload) -> dict[str, str]:
    try:
        return render(workload)
    except ManifestError as error:
        raise ConfigError(str(error)) from error


def _write(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = folder / name
        same = path.is_file() and path.read_text(encoding="utf-8") == text
        if not same:
            path.write_text(text, encoding="utf-8")
        click.echo(f"{'kept' if same else 'wrote'} {path}")
