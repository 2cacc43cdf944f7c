"""The same manifests as a Helm chart: what changes from one installation to the next is in values.yaml."""

from dataclasses import dataclass, replace

from k8s.render import manifests, render, values
from k8s.text import Templates, scalar
from k8s.workload import Workload


@dataclass(frozen=True)
class _Value:
    """What a template of the chart reads from values.yaml; toJson writes one YAML scalar of it, as `scalar` does."""

    path: tuple[str, ...]

    def __str__(self) -> str:
        return "{{ index .Values " + " ".join(f'"{name}"' for name in self.path) + " | toJson }}"


def chart(workload: Workload) -> dict[str, str]:
    """File name to text: Chart.yaml, values.yaml, templates/. Raises ManifestError as `render` does.

    The namespace is the release's, so none is in it; names stay the workload's, so one release is one workload.
    """
    workload = replace(workload, namespace=None, create_namespace=False)
    render(workload)
    templates, several = Templates(_write), len(workload.variants) > 0
    texts = {}
    for each in manifests(workload):
        section = (each.workload.name,) if several else ()
        holes = {name: _Value((*section, _camel(name))) for name in values(each.workload)}
        texts[f"templates/{each.name}"] = templates.text(each.template, {**each.context, "v": holes})
    return {"Chart.yaml": _chart(workload), "values.yaml": _values(workload)} | texts


def _write(value: object) -> str:
    """A scalar in which Helm finds no template of its own."""
    return str(value) if isinstance(value, _Value) else scalar(value).replace("{{", '{{ "{{" }}')


def _chart(w: Workload) -> str:
    # A chart's version must be a semantic one, and counts the chart, not the model: that is appVersion.
    lines = ["apiVersion: v2", f"name: {scalar(w.name)}", "version: 0.1.0", "type: application"]
    if w.version:
        lines.append(f"appVersion: {scalar(w.version)}")
    lines.append(f"description: {scalar(f'{w.name}, as trtpack render wrote it')}")
    return "\n".join(lines) + "\n"


def _values(w: Workload) -> str:
    lines = []
    if w.autoscale:
        lines.append("# The autoscaler sets replicas; what is here is not read.")
    for each in w.deployments():
        indent = ""
        if w.variants:
            lines.append(f"{scalar(each.name)}:")
            indent = "  "
        lines += [f"{indent}{_camel(name)}: {scalar(value)}" for name, value in values(each).items()]
    return "\n".join(lines) + "\n"


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)
