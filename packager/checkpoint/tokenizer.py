"""The tokenizer files of a Hugging Face folder, in the one form the runtime reads."""

import shutil
from pathlib import Path
from typing import Any

from packager.checkpoint import json_file
from packager.errors import TrtpackError

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"


def copy(source: Path, out: Path) -> None:
    """Copies `source`'s tokenizer into `out`, converting one that has no tokenizer.json; raises TrtpackError."""
    if (source / TOKENIZER).is_file():
        shutil.copyfile(source / TOKENIZER, out / TOKENIZER)
        _check(source / TOKENIZER)
    else:
        _convert(source, out)
    config = json_file.read_optional(source / TOKENIZER_CONFIG)
    if template := _chat_template(source, config):
        (out / CHAT_TEMPLATE).write_text(template, encoding="utf-8")
    config.pop("chat_template", None)
    json_file.write(out / TOKENIZER_CONFIG, config)


def _check(path: Path) -> None:
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise TrtpackError(f"{path} is not a tokenizer that the tokenizers library reads: {error}") from error


def _convert(source: Path, out: Path) -> None:
    """Slow to import and to run, so only for the few checkpoints that need it."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, local_files_only=True)
        tokenizer.backend_tokenizer.save(str(out / TOKENIZER))
    except Exception as error:  # whatever the checkpoint's tokenizer class or a missing package raises
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TrtpackError(
            f"{source} has no {TOKENIZER}, and its tokenizer does not convert: {reason}",
            "Add a tokenizer.json; most checkpoints on the Hub have one.",
        ) from error


def _chat_template(source: Path, config: dict[str, Any]) -> str | None:
    """The default template, from whichever of the three places Hugging Face has kept it in."""
    if (source / CHAT_TEMPLATE).is_file():
        return (source / CHAT_TEMPLATE).read_text(encoding="utf-8")
    template = json_file.read_optional(source / "chat_template.json").get("chat_template") or config.get(
        "chat_template"
    )
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default")
    return template
