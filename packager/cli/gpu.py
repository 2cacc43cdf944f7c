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
