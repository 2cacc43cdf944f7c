"""A tiny Llama, and the drafts that guess for it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.llm import LLM
from runtime.prediction import Prediction
from runtime.request import Delta
from runtime.speculation import Drafter, DraftModel, PromptLookup
from tests.conftest import TinyEngine
from tests.generation import answers

_FAMILIES = {"same": "llama", "near": "mistral", "other": "qwen3"}


@pytest.fixture
def draft(tiny_engine: TinyEngine) -> Callable[..., DraftModel]:
    """A draft model of that name; `tokens` and so on are DraftModel's."""

    def make(name: str = "same", limits: dict[str, int] | None = None, **options: int) -> DraftModel:
        return DraftModel(tiny_engine(_FAMILIES[name], **(limits or {})), **{"kv_cache_bytes": 2**26, **options})

    return make


@pytest.fixture
def drafter(draft: Callable[..., DraftModel]) -> Callable[[str], Drafter]:
    """Any of tests.generation.DRAFTS."""
    return lambda name: PromptLookup(shortest=1) if name == "lookup" else draft(name)


@pytest.fixture(scope="module")
def plain(tiny_engine: TinyEngine) -> Iterator[LLM]:
    """Without guesses."""
    llm = LLM(tiny_engine(), kv_cache_bytes=2**26)
    yield llm
    llm.close()


@pytest.fixture
def run(tiny_engine: TinyEngine) -> Callable[..., list[list[Delta]]]:
    """All that several predictions at once give, by an engine with this drafter; its blocks come back."""

    def generate(predictions: list[Prediction], drafter: Drafter, engine: Path | None = None) -> list[list[Delta]]:
        llm = LLM(engine or tiny_engine(), kv_cache_bytes=2**26, drafter=drafter)
        try:
            return answers(llm, predictions)
        finally:
            llm.close()
            assert llm.stats().free_blocks == llm.stats().total_blocks
            if isinstance(drafter, DraftModel):
                assert drafter.pool.num_free == drafter.pool.num_blocks

    return generate
