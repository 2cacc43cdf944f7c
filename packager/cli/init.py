"""`trtpack init`: a new model package, copied from model_template/."""

import re
import shlex
from collections.abc import Iterable
from pathlib import Path

import click
import yaml

from packager.cli.gpu import accelerator
from packager.config import Accelerator
from packager.errors import ConfigError
from packager.model import TEMPLATE


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--checkpoint", metavar="SRC", help="A folder, a .gguf file or hf://ORG/NAME[@REVISION].")
@click.option("--gpu", metavar="NAME", callback=accelerator, help="The GPU to run on: L4, H100, or GKE's label.")
def command(directory: Path, checkpoint: str | None, gpu: Accelerator | None) -> None:
    """Lay down a new model package in DIR.

    A package is a config.yaml, which says what to serve on which GPU, and a model/model.py, which says how a
    request is answered. Both are yours to edit. A file that is there already is never overwritten.

    \b
    Example:
      trtpack init smollm --checkpoint hf://HuggingFaceTB/SmolLM2-135M-Instruct --gpu L4
    """
    values = {"model_name": directory.resolve().name or "model"}
    if checkpoint is not None:
        values["checkpoint"] = _source(checkpoint)
    if gpu is not None:
        values["accelerator"] = str(gpu)
    files = {directory / name: text for name, text in _template(values).items()}
    _refuse_to_overwrite(files)
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        click.echo(f"wrote {path}")
    name = shlex.quote(str(directory))
    click.echo(f"\nNext:\n  trtpack compile {name}\n  trtpack serve {name}\n  trtpack predict 'What is a mistral?'")


def _template(values: dict[str, str]) -> dict[str, str]:
    """Relative path to text of every file of the template, with `values` in its config.yaml."""
    paths = [path for path in TEMPLATE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    texts = {str(path.relative_to(TEMPLATE)): path.read_text(encoding="utf-8") for path in sorted(paths)}
    for key, value in values.items():
        texts["config.yaml"] = _replaced(texts["config.yaml"], key, value)
    return texts


def _replaced(text: str, key: str, value: str) -> str:
    """The YAML text with the one line `key: ...` given `value`; comments stay."""
    scalar = yaml.safe_dump(value, width=float("inf"), allow_unicode=True).removesuffix("\n").removesuffix("\n...")
    return re.sub(rf"^( *{key}:) \S+", lambda line: f"{line[1]} {scalar}", text, count=1, flags=re.MULTILINE)


def _source(checkpoint: str) -> str:
    """A path as an absolute one, since config.yaml reads it from the package's folder; a URL as it is."""
    if "://" in checkpoint:
        return checkpoint
    path = Path(checkpoint).expanduser()
    if not path.exists():
        raise ConfigError(f"checkpoint {checkpoint} does not exist", f"On the Hugging Face Hub? hf://{checkpoint}")
    return str(path.resolve())


def _refuse_to_overwrite(files: Iterable[Path]) -> None:
    for path in files:
        for taken in (path, *path.parents):
            if taken.exists() and (taken == path or not taken.is_dir()):
                raise ConfigError(f"{taken} exists; nothing was written", "Name another folder, or move it away.")
