"""How many input features of a quantised layer share a scale."""

from packager.errors import TrtpackError

DEFAULT = 128
_SMALLER = (64, 32)


def group_size(layer: str, width: int, wanted: int | None) -> int:
    """`wanted`, or the largest smaller size that divides the layer's `width` input features; else TrtpackError.

    None is one scale a row: all of `width`.
    """
    if wanted is None:
        return width
    for size in (wanted, *_SMALLER):
        if size <= wanted and width % size == 0:
            return size
    raise TrtpackError(
        f"{layer} has {width} input features, which neither groups of {wanted} nor smaller ones down to 32 divide",
        "Choose int8 or fp8, which have a scale for each row.",
    )
