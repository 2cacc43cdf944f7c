"""What the soak serves: the template's model, with a KV cache as small as config.yaml says."""

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from runtime.engine.manifest import Scheduling
from runtime.llm import LLM


class Model:
    def __init__(self, config: dict[str, Any]) -> None:
        self._kv_cache_bytes = config["model_metadata"]["kv_cache_bytes"]
        self._llm: LLM

    def load(self) -> None:
        self._llm = LLM("engine", kv_cache_bytes=self._kv_cache_bytes, scheduling=Scheduling(policy="priority"))

    async def predict(self, inputs: dict[str, Any]) -> dict[str, Any] | AsyncIterator[str]:
        """A prediction; or, for {"stats": true}, where the engine stands."""
        if inputs == {"stats": True}:
            return asdict(self._llm.stats())
        prediction = self._llm.request(inputs)
        if prediction.streaming:
            return self._llm.stream(prediction)
        return (await self._llm.complete(prediction)).json(prediction)

    def is_healthy(self) -> bool:
        return self._llm.healthy
