"""The `engine:` section of config.yaml, with a command's options in the place of what it says."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from packager.errors import ConfigError
from runtime.engine.manifest import DType, Scheme

if TYPE_CHECKING:
    from packager.config import EngineConfig

F = TypeVar("F", bound=Callable[..., Any])


def _number(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    return int(value) if value else None


def precision_options(function: F) -> F:
    """Adds `--dtype`, `--quantization` and `--group-size` to a command, as parameters of those names."""
    for option in (
        click.option(
            "--group-size",
            type=click.Choice(["32", "64", "128"]),
            callback=_number,
            help="int4: input features that share a scale.",
        ),
        click.option("--quantization", type=click.Choice(get_args(Scheme)), help="Instead of engine.quantization."),
        click.option("--dtype", type=click.Choice(get_args(DType)), help="Instead of engine.dtype."),
    ):
        function = option(function)
    return function


def engine_config(given: "EngineConfig | None", changes: Mapping[str, Any]) -> "EngineConfig":
    """`given` with those of `changes` that are not None. Raises ConfigError."""
    from pydantic import ValidationError

    from packager.config import EngineConfig

    fields = given.model_dump() if given else {}
    fields |= {key: value for key, value in changes.items() if value is not None}
    if not fields.get("checkpoint", "").strip():
        raise ConfigError(
            "config.yaml names no checkpoint to compile",
            "Add one under engine:, or name it with --checkpoint hf://ORG/NAME",
        )
    if changes.get("quantization") and changes["quantization"] != "int4" and not changes.get("group_size"):
        fields["group_size"] = None  # config.yaml's was for another scheme
    try:
        return EngineConfig.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(
            "; ".join(str(details.get("ctx", {}).get("error", details["msg"])) for details in error.errors())
        ) from error
