"""`trtpack pull`: an engine from a registry, the one for a GPU."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from packager.cli.gpu import accelerator

if TYPE_CHECKING:
    from packager.config import Accelerator
    from runtime.registry.pull import Pulled


@click.command()
@click.argument("reference", metavar="REF")
@click.option(
    "--gpu",
    metavar="NAME",
    callback=accelerator,
    help="Instead of the accelerator of the package in DIR, or else this machine's GPU.",
)
@click.option(
    "--out", metavar="DIR", type=click.Path(path_type=Path), help="Instead of the cache: a package, or a folder."
)
def command(reference: str, gpu: "Accelerator | None", out: Path | None) -> None:
    """Pull the engine REF, which is oci://REGISTRY/NAME[:TAG][@DIGEST] or hf://ORG/NAME[@REVISION].

    Of the engines there, the one for the GPU is taken. It is kept in $TRTPACK_CACHE_DIR, checked against its digest;
    pulled again it costs nothing, and a pull that stopped goes on where it was. With --out it is DIR/engine of a
    package, or DIR itself.

    \b
    Example:
      trtpack pull oci://europe-docker.pkg.dev/me/models/smollm-engine:1 --out smollm
      trtpack pull hf://me/smollm-engine --gpu L4
    """
    from packager import swap
    from packager.config import load
    from runtime.engine.manifest import FILE_NAME
    from runtime.registry.pull import link

    in_package = out is not None and (out / "config.yaml").is_file()
    if out and in_package:
        gpu = gpu or load(out).resources.accelerator
        out = out / "engine"
    if out:
        swap.check_replaceable(out, FILE_NAME, "an engine")
    pulled = _pull(reference, gpu)
    if out:
        with swap.replaced(out, FILE_NAME, "an engine") as folder:
            for file in sorted(pulled.folder.rglob("*")):
                if file.is_file():
                    link(file, folder / file.relative_to(pulled.folder))
    where = out or pulled.folder
    click.echo(f"pulled {pulled.reference}\n{where}\n\nNext:\n  {_next(where, in_package)}")


def _next(where: Path, in_package: bool) -> str:
    return f"trtpack serve {where.parent}" if in_package else f"trtpack inspect {where}"


def _pull(reference: str, gpu: "Accelerator | None") -> "Pulled":
    from packager import progress
    from packager.registry.engine import device
    from runtime.engine.device import probe
    from runtime.registry.source import pull

    def shown(total: int) -> progress.Advance:
        return bars.enter_context(progress.task(f"Pulling {reference}", total))

    here = device(gpu.gpu) if gpu else probe()
    with ExitStack() as bars:
        return pull(reference, here, gpu.gpu.name if gpu else None, progress=shown)
