"""What a cluster is to run: the options that render and deploy share, and the manifests that follow."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from packager.cli.gpu import accelerators
from packager.errors import ConfigError

if TYPE_CHECKING:
    from k8s.workload import Workload
    from packager.config import PackageConfig

F = TypeVar("F", bound=Callable[..., Any])


def workload_options(function: F) -> F:
    """Adds `--image`, `--gpu`, `--namespace`, `--replicas` and `--set`, which `asked_workload` takes."""
    for option in (
        click.option("--set", "changes", metavar="FIELD=VALUE", multiple=True, help="A field of kubernetes: instead."),
        click.option("--replicas", type=click.IntRange(0), help="How many pods; without it as in config.yaml, or 1."),
        click.option("--namespace", metavar="NS", help="Without it that of config.yaml, or the one kubectl is set to."),
        click.option(
            "--gpu",
            "gpus",
            metavar="NAME",
            multiple=True,
            callback=accelerators,
            help="Instead of the accelerator in config.yaml: L4, A100:2, a GKE label. Several: a Deployment each.",
        ),
        click.option("--image", metavar="REF", help="The image to run; without it NAME:latest, after model_name."),
    ):
        function = option(function)
    return function


def asked_workload(directory: Path, options: Mapping[str, Any]) -> "Workload":
    """The workload of the package in `directory`, with the options above. Raises ConfigError."""
    from packager.config import load
    from packager.workload import Asked, workload

    changes = options["changes"]
    config = load(directory)
    if changes:
        config = _changed(config, changes)
    asked = Asked(**{name: options[name] for name in ("image", "gpus", "namespace", "replicas")})
    return workload(directory, config, asked)


def rendered(workload: "Workload", chart: bool = False) -> dict[str, str]:
    """File name to text, as k8s.render.render, or k8s.chart.chart. Raises ConfigError."""
    from k8s.chart import chart as as_chart
    from k8s.policy import ManifestError
    from k8s.render import render

    try:
        return as_chart(workload) if chart else render(workload)
    except ManifestError as error:
        raise ConfigError(str(error)) from error


def _changed(config: "PackageConfig", changes: tuple[str, ...]) -> "PackageConfig":
    """The config with fields of `kubernetes:` as `--set` has them; a value is YAML, as in config.yaml."""
    import yaml
    from pydantic import ValidationError

    from packager.config.kubernetes import Kubernetes

    fields = config.kubernetes.model_dump(mode="json", exclude_unset=True)
    for change in changes:
        path, sign, text = change.partition("=")
        *parents, name = path.split(".")
        if not (sign and name):
            raise ConfigError(f"--set {change} is not FIELD=VALUE", "Such as: --set disruption_budget=true")
        place = fields
        for parent in parents:
            inner = place.get(parent)
            place[parent] = place = inner if isinstance(inner, dict) else {}
        place[name] = yaml.safe_load(text)
    try:
        section = Kubernetes.model_validate(fields)
    except (ValidationError, yaml.YAMLError) as error:
        raise ConfigError(f"--set {' '.join(changes)}: {_first(error)}", "Its fields: docs/03-kubernetes.md") from error
    return config.model_copy(update={"kubernetes": section})


def _first(error: Exception) -> str:
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error).partition("\n")[0]
    details = error.errors()[0]
    return f"{'.'.join(map(str, details['loc']))}: {details.get('ctx', {}).get('error', details['msg'])}"
