"""What an LLM answers, and how many of its guesses are right."""

import asyncio

from prometheus_client import REGISTRY

from runtime.llm import LLM
from runtime.prediction import Prediction
from runtime.request import Delta

# Drafts for a tiny Llama: the model itself, its weights with a window of 12 tokens, another model, and no model.
DRAFTS = ("same", "near", "other", "lookup")


def answers(llm: LLM, predictions: list[Prediction]) -> list[list[Delta]]:
    """The deltas of predictions made at once."""

    async def one(prediction: Prediction) -> list[Delta]:
        return [delta async for delta in llm.deltas(prediction)]

    async def every() -> list[list[Delta]]:
        return await asyncio.gather(*map(one, predictions))

    return asyncio.run(every())


def tokens(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in delta.tokens]


def text(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


class Counted:
    """How many tokens were guessed and how many were right, within a `with`."""

    guessed = right = 0.0

    def __enter__(self) -> "Counted":
        self._before = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self.guessed, self.right = (now - then for now, then in zip(self._now(), self._before, strict=True))

    def _now(self) -> tuple[float, float]:
        names = ("trtpack_spec_decode_num_draft_tokens_total", "trtpack_spec_decode_num_accepted_tokens_total")
        guessed, right = (REGISTRY.get_sample_value(name) or 0.0 for name in names)
        return guessed, right
