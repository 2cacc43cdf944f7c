"""Which input features share a scale."""

import torch

from packager.checkpoint.quantized.layer import Layer


def grouped(size: int | None) -> str:
    """A group size in words; None and -1 are one group over all input features."""
    return "one scale a row" if size in (None, -1) else f"group {size}"


def successive(width: int, size: int | None) -> torch.Tensor:
    """int64 [width]: the group of each input feature, where `size` of them follow one another."""
    return torch.arange(width) // (width if size in (None, -1) else size)


def indexed(layer: Layer, part: str, width: int, size: int | None, count: int) -> torch.Tensor:
    """int64 [width]: the group of each input feature as the layer's index `part` has it, else `successive`.

    An index that is all zero or all -1 says nothing: exporters leave it so where groups are successive (exllamav2 and
    vLLM read it so). Raises TrtpackError for one that points past the `count` groups.
    """
    if part not in layer:
        return successive(width, size)
    group = layer.read(part).long()
    lowest, highest = int(group.min()), int(group.max())
    if lowest == highest and lowest in (0, -1):
        return successive(width, size)
    if lowest < 0 or highest >= count:
        raise layer.error(part, f"points to group {lowest if lowest < 0 else highest}, of {count}")
    return group
