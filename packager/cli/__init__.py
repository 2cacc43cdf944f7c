"""The `trtpack` command: a group whose commands are imported when they are called, and how an error is told.

Exit codes: 0 done, 1 failed, 2 wrong usage or config, 130 interrupted.
"""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from typing import IO, Any

import click

from packager.errors import TrtpackError

COMMANDS = {
    "init": "Lay down a new model package.",
    "plan": "Show on which GPUs a model fits, and how fast it could be.",
    "compile": "Compile its checkpoint into an engine.",
    "inspect": "Show what an engine is, and check it.",
    "compare": "Find where it departs from its checkpoint.",
    "serve": "Serve it on this machine.",
    "predict": "Ask a running server and stream its answer.",
    "build": "Build its container image.",
    "run": "Start that image here, as in the cluster.",
    "push": "Push its image or its engine to a registry.",
    "pull": "Pull an engine from a registry.",
    "verify": "Check what is in a registry: digests, SBOM, provenance, signature.",
    "sbom": "List what an image or an engine is made of.",
    "render": "Write its Kubernetes manifests.",
    "deploy": "Bring it up on a cluster.",
    "status": "Show how it stands there.",
    "logs": "Show what its pods say.",
    "delete": "Remove it from the cluster.",
    "gpus": "Show the GPU types, and what is known of each.",
}


class Failure(click.ClickException):
    """An error as a person reads it: its lines, then what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def show(self, file: IO[Any] | None = None) -> None:
        for line in self.message.splitlines():
            click.echo(f"{click.style('error:', fg='red', bold=True)} {line}", file=file, err=True)
        if self.hint:
            click.echo(f"  {self.hint}", file=file, err=True)


class Misuse(Failure):
    """The command, or config.yaml, must change."""

    exit_code = 2


class Commands(click.Group):
    """Knows every command by name, so that `trtpack --help` imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"packager.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS:
            near = get_close_matches(args[0], COMMANDS, n=1)
            guess = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(COMMANDS)}"
            raise click.UsageError(f"no command {args[0]!r}; {guess}", ctx)
        return super().resolve_command(ctx, args)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _told(debug=False):
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _told(debug=ctx.params["debug"]):
            return super().invoke(ctx)


@contextmanager
def _told(debug: bool) -> Iterator[None]:
    """Turns whatever the body raises into a Failure, or an Exit; with `debug`, after the traceback."""
    try:
        yield
    except (click.exceptions.Exit, click.exceptions.NoArgsIsHelpError, BrokenPipeError):
        raise
    except KeyboardInterrupt:
        click.echo("\ninterrupted", err=True)
        raise click.exceptions.Exit(130) from None
    except click.UsageError as error:
        name = error.ctx.command_path if error.ctx else "trtpack"
        raise Misuse(error.format_message(), f"See: {name} --help") from error
    except click.ClickException:
        raise
    except Exception as error:
        if debug:
            traceback.print_exc()
        raise _failure(error) from error


def _failure(error: Exception) -> Failure:
    from runtime.errors import EngineError
    from runtime.model.families import UnsupportedModelError

    if isinstance(error, TrtpackError):
        kind = Misuse if error.exit_code == Misuse.exit_code else Failure
        return kind(error.message, error.hint)
    if isinstance(error, EngineError | UnsupportedModelError):
        return Failure(str(error))
    if isinstance(error, ModuleNotFoundError):
        return Failure(f"{error.name} is not installed", "Install it with: pip install 'trtpack[package]'")
    if isinstance(error, OSError) and error.strerror:
        return Failure(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    text = f"{type(error).__name__}: {error}".partition("\n")[0]
    return Failure(f"{text} (a bug in trtpack)", "See where with: trtpack --debug ...")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="trtpack", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Package a Hugging Face checkpoint for one GPU type.

    From a checkpoint to a service that streams tokens: an engine compiled for the GPU named in config.yaml, a
    container image with it, and the Kubernetes manifests that find that GPU.

    \b
    Example:
      trtpack init smollm && cd smollm
      trtpack compile
      trtpack serve
      trtpack predict "What is a mistral?"     (in another terminal)
    """


def console() -> None:
    """The console script."""
    sys.exit(main(prog_name="trtpack"))
