"""An engine that was compiled with speculation brings its drafter."""

import shutil
from pathlib import Path

import pytest

from runtime.engine.manifest import Speculation
from runtime.errors import EngineError
from runtime.llm import LLM
from runtime.prediction import Prediction
from runtime.sampling import SamplingParams
from runtime.speculation import DraftModel, PromptLookup, own
from tests import engines
from tests.conftest import TinyEngine
from tests.generation import Counted, answers, tokens


def test_an_engine_without_has_none(tiny_engine: TinyEngine) -> None:
    assert own(tiny_engine()) is None


def test_prompt_lookup(tiny_engine: TinyEngine, tmp_path: Path) -> None:
    guessing = Speculation(method="prompt_lookup", tokens=7)
    assert own(engines.copy(tiny_engine(), tmp_path / "engine", speculation=guessing)) == PromptLookup(tokens=7)


def test_a_draft_model_guesses_unless_it_is_told_not_to(tiny_engine: TinyEngine, tmp_path: Path) -> None:
    engine = engines.copy(tiny_engine(), tmp_path / "engine", speculation=Speculation(method="draft_model", tokens=2))
    with pytest.raises(EngineError, match=r"draft/engine\.json does not exist"):
        LLM(engine)
    shutil.copytree(tiny_engine(), engine / "draft")
    assert isinstance(own(engine), DraftModel)
    asked = [Prediction((5, 6, 7), SamplingParams(temperature=1.0), 10, ignore_eos=True)]
    said, counts = [], []
    for options in ({}, {"drafter": None}):
        llm = LLM(engine, kv_cache_bytes=2**26, **options)  # type: ignore[arg-type]
        with Counted() as drafts:
            said.append(tokens(answers(llm, asked)[0]))
        counts.append((drafts.guessed, drafts.right))
        llm.close()
    assert said[0] == said[1]
    assert counts == [(6, 6), (0, 0)]
