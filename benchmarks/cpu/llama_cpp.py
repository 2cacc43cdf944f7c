"""llama.cpp's side: the server inside xllamacpp, which batches continuously, on the GGUF as it is (Q4_1)."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

import xllamacpp

from benchmarks.cpu.answers import Answers
from benchmarks.cpu.smollm2 import Prompt

_CONTEXT = 512  # tokens a slot
_QUIET = -1


class LlamaCpp:
    """As many slots as prompts may come at once; no prompt is kept for the next one."""

    def __init__(self, gguf: Path, threads: int, slots: int) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(gguf)
        params.n_parallel, params.n_ctx = slots, slots * _CONTEXT
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.cont_batching, params.cache_prompt = True, False
        params.verbosity = _QUIET
        self._server = xllamacpp.Server(params)
        self._clients = ThreadPoolExecutor(slots)
        self.answer([(1, 2, 3)] * slots, 4)

    def answer(self, prompts: Sequence[Prompt], new_tokens: int) -> Answers:
        """Greedy answers of exactly `new_tokens` tokens, streamed, all requests at once."""
        started = perf_counter()
        arrivals = list(self._clients.map(lambda prompt: self._one(prompt, new_tokens, started), prompts))
        if any(len(answer) != new_tokens for answer in arrivals):
            raise RuntimeError(f"llama.cpp gave {[len(answer) for answer in arrivals]} tokens instead of {new_tokens}")
        return Answers.of(prompts, arrivals)

    def _one(self, prompt: Prompt, new_tokens: int, started: float) -> list[float]:
        arrivals: list[float] = []

        def arrived(chunk: dict[str, Any]) -> None:
            if "choices" not in chunk:
                raise RuntimeError(f"llama.cpp refused: {chunk}")
            # The last chunk has the reason, and no token.
            if chunk["choices"][0]["finish_reason"] is None:
                arrivals.append(perf_counter() - started)

        wanted = {"max_tokens": new_tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False, "stream": True}
        self._server.handle_completions({"prompt": list(prompt), **wanted}, arrived)
        return arrivals
