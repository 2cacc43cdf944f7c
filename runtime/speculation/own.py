"""The drafter that an engine was compiled with."""

from pathlib import Path

from runtime.engine import manifest
from runtime.speculation.draft_model import DraftModel
from runtime.speculation.drafter import Drafter
from runtime.speculation.lookup import PromptLookup


def own(engine: Path, device: str | None = None) -> Drafter | None:
    """What engine.json says of the folder `engine`, on a device as for LLM. Raises EngineError."""
    match manifest.read(engine).speculation:
        case None:
            return None
        case manifest.Speculation(method="prompt_lookup", tokens=tokens):
            return PromptLookup(tokens)
        case manifest.Speculation(tokens=tokens):
            return DraftModel(engine / manifest.DRAFT_FOLDER, tokens, device=device)
