"""Guessing the next tokens cheaply, so that one step of the model can confirm several."""

from runtime.speculation.draft_model import DraftModel
from runtime.speculation.drafter import Drafter
from runtime.speculation.lookup import PromptLookup
from runtime.speculation.own import own

__all__ = ["DraftModel", "Drafter", "PromptLookup", "own"]
