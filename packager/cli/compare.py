"""`trtpack compare`: an engine against its checkpoint, segment by segment."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from packager.errors import TrtpackError

if TYPE_CHECKING:
    from packager.compare import Backend, Difference

_PROMPT = "The quick brown fox jumps over the lazy dog, and then the hen wonders whether anything further happened."


@click.command()
@click.argument("engine", metavar="ENGINE", type=click.Path(path_type=Path))
@click.argument("checkpoint", metavar="CHECKPOINT")
@click.option("--prompt", metavar="TEXT", default=_PROMPT, help="What to run through both.")
@click.option(
    "--backend",
    type=click.Choice(["torch", "stand-in"]),
    help="What runs the engine here: its PyTorch modules, or its graphs on ONNX Runtime in place of TensorRT. "
    "By default what it was compiled for.",
)
@click.option(
    "--layers", metavar="FILE", type=click.Path(path_type=Path), help="The package's engine.layers, where it has some."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
def command(
    engine: Path, checkpoint: str, prompt: str, backend: "Backend | None", layers: Path | None, as_json: bool
) -> None:
    """Run a prompt through ENGINE and through CHECKPOINT in float32, and show where they part.

    For each segment, the relative error of its outputs: isolated, given what the reference gave, and accumulated,
    given what the engine's own segments gave before it. The limits are what rounding and quantisation explain. The
    first segment beyond them is named, and the exit code is 1.

    \b
    Example:
      trtpack compare smollm/engine hf://HuggingFaceTB/SmolLM2-135M-Instruct
      trtpack compare smollm/engine SmolLM2.Q4_1.gguf --backend torch --prompt "2 + 2 ="
    """
    from packager.checkpoint import open_checkpoint
    from packager.compare import compare, default_backend
    from runtime.engine import manifest as manifests
    from runtime.model import extension
    from runtime.tokenizer import Tokenizer

    if layers:
        extension.load(layers)
    manifest = manifests.read(engine)
    manifests.verify(engine, manifest)
    chosen = backend or default_backend(manifest)
    tokens = Tokenizer(engine / "tokenizer", manifest.limits.max_model_len).encode(prompt)
    found: list[Difference] = []
    if not as_json:
        click.echo(f"{'segment':<12}{'isolated':>12}{'limit':>10}{'accumulated':>14}{'limit':>10}")
    for difference in compare(engine, open_checkpoint(checkpoint, Path()), tokens, chosen):
        found.append(difference)
        if not as_json:
            click.echo(_line(difference))
    first = next((difference for difference in found if difference.departs), None)
    if as_json:
        segments = [asdict(difference) | {"departs": difference.departs} for difference in found]
        told = {"engine": str(engine), "backend": chosen, "tokens": len(tokens), "segments": segments}
        click.echo(json.dumps(told | {"first": first and first.segment}))
    if first:
        raise TrtpackError(
            f"{first.segment} is the first of {len(found)} segments to depart from {checkpoint}: {_reason(first)}",
            "Its weights or its computation are not the checkpoint's; compile again, and see trtpack inspect.",
        )
    if not as_json:
        click.echo(f"All {len(found)} segments agree with {checkpoint} over {len(tokens)} tokens ({chosen}).")


def _line(one: "Difference") -> str:
    numbers = f"{one.isolated:>12.1e}{one.isolated_limit:>10.1e}{one.accumulated:>14.1e}{one.accumulated_limit:>10.1e}"
    return f"{one.segment:<12}{numbers}{'  departs' if one.departs else ''}"


def _reason(one: "Difference") -> str:
    if one.isolated <= one.isolated_limit:
        return f"accumulated error {one.accumulated:.1e}, limit {one.accumulated_limit:.1e}"
    return f"isolated error {one.isolated:.1e}, limit {one.isolated_limit:.1e}"
