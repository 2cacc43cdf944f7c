"""A request's defaults from a checkpoint's generation_config.json."""

from collections.abc import Mapping
from typing import Any

from runtime.engine.manifest import Generation


def defaults(generation: Mapping[str, Any], config: Mapping[str, Any]) -> Generation:
    """Stop tokens of both files, generation_config.json's first; sampling only where it says do_sample."""
    stops = dict.fromkeys((*_ids(generation.get("eos_token_id")), *_ids(config.get("eos_token_id"))))
    if not generation.get("do_sample"):
        return Generation(eos_token_ids=tuple(stops))
    return Generation(
        eos_token_ids=tuple(stops),
        temperature=_or(generation.get("temperature"), 1.0),
        top_k=_or(generation.get("top_k"), 0),
        top_p=_or(generation.get("top_p"), 1.0),
    )


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
