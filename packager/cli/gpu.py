"""The value of `--gpu`."""

import click

from packager.config import Accelerator
from packager.config.values import parse_accelerator


def accelerator(ctx: click.Context, param: click.Parameter, value: str | None) -> Accelerator | None:
    """A click callback: `NAME` or `NAME:COUNT`, as under resources.accelerator, to an Accelerator."""
    try:
        return parse_accelerator(value) if value is not None else None
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from error


def accelerators(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[Accelerator, ...]:
    """The same for an option that may be given several times; a GPU named twice counts once."""
    found = (accelerator(ctx, param, value) for value in values)
    return tuple(dict.fromkeys(each for each in found if each))
