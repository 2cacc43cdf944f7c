"""transformers' side: `generate` on a batch of prompts of one length, and `generate_batch`, its continuous batching."""

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import torch
from transformers import (
    ContinuousBatchingConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    StoppingCriteria,
    StoppingCriteriaList,
)

from benchmarks.cpu import smollm2
from benchmarks.cpu.answers import Answers
from benchmarks.cpu.smollm2 import Prompt
from runtime.engine.manifest import DType

# Of the sizes tried on a CPU the fastest; the default of 256 is made for a GPU.
_PAGE_TOKENS = 32


class _Clock(StoppingCriteria):  # type: ignore[misc]
    """Notes when each step ended, and stops none."""

    def __init__(self) -> None:
        self.started, self.arrivals = perf_counter(), list[float]()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.arrivals.append(perf_counter() - self.started)
        return torch.zeros(len(input_ids), dtype=torch.bool)


class HuggingFace:
    """transformers' own model with the same weights in the same type, and its default attention (SDPA)."""

    def __init__(self, dtype: DType) -> None:
        checkpoint = smollm2.checkpoint()
        config = LlamaConfig(**{key: value for key, value in checkpoint.config.items() if key != "architectures"})
        self._model = LlamaForCausalLM(config)
        self._model.load_state_dict({name: checkpoint.get(name) for name in checkpoint.shapes}, strict=False)
        self._model.to(getattr(torch, dtype)).eval()
        # No end, so that every answer is as long as it was asked to be.
        self._model.generation_config = GenerationConfig(do_sample=False, eos_token_id=None, pad_token_id=0)
        self.answer([(1, 2, 3)] * 8, 4)

    def answer(self, prompts: Sequence[Prompt], new_tokens: int) -> Answers:
        """Greedy answers of exactly `new_tokens` tokens, in one call of `generate`."""
        inputs = torch.tensor(prompts)
        clock = _Clock()
        out = self._model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=new_tokens,
            stopping_criteria=StoppingCriteriaList([clock]),
        )
        return Answers.of(prompts, [clock.arrivals] * len(prompts), out[:, inputs.shape[1] :].tolist())

    def answer_batch(self, prompts: Sequence[Prompt], new_tokens: int) -> Answers:
        """The same from one call of `generate_batch`, whose requests are kept apart and join its batch as ours do."""
        longest = max(map(len, prompts)) + new_tokens
        # Twice what is needed: its scheduler holds prompts back when little is free.
        blocks = 2 * len(prompts) * -(-longest // _PAGE_TOKENS)
        config = ContinuousBatchingConfig(page_size=_PAGE_TOKENS, num_blocks=blocks, max_batch_tokens=512)
        generation = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=new_tokens)
        started = perf_counter()
        results = self._model.generate_batch(
            [list(prompt) for prompt in prompts], generation_config=generation, continuous_batching_config=config
        )
        seconds = perf_counter() - started
        tokens = [result.generated_tokens for result in results.values()]
        if [len(answer) for answer in tokens] != [new_tokens] * len(prompts):
            raise RuntimeError(f"generate_batch answered {len(tokens)} of {len(prompts)} prompts in full")
        # It tells when all is done, and not when each token was.
        return Answers.of(prompts, [[seconds] * new_tokens] * len(prompts), tokens)
