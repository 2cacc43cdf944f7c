"""How a request is answered. This file is yours to edit."""

from collections.abc import AsyncIterator
from typing import Any

from runtime.llm import LLM


class Model:
    def __init__(self, **kwargs: Any) -> None:
        """`kwargs` holds config, data_dir, secrets and environment, should you want them."""
        self._llm: LLM

    def load(self) -> None:
        """Called once, before the first request; the server is not ready until it returns."""
        self._llm = LLM("engine")

    async def predict(self, inputs: dict[str, Any]) -> dict[str, Any] | AsyncIterator[str]:
        """`inputs` is the body of the request: a prompt or messages, and how to sample.

        An iterator streams: every piece it yields goes to the client at once. Anything else is sent whole, as JSON.
        """
        request = self._llm.request(inputs)
        if request.streaming:
            return self._llm.stream(request)
        return (await self._llm.complete(request)).json(request)

    def is_healthy(self) -> bool:
        """False takes this replica out of service."""
        return self._llm.healthy
