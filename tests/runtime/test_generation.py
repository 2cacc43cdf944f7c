"""The runtime's greedy float32 tokens are transformers' tokens, whatever else is in the batch."""

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import transformers
from prometheus_client import REGISTRY

from runtime.engine.manifest import Scheduling
from runtime.llm import LLM
from runtime.prediction import Prediction
from runtime.sampling import SamplingParams
from runtime.speculation import PromptLookup
from tests.conftest import TinyEngine
from tests.tiny import FAMILIES, VOCAB

LENGTHS = (1, 5, 17, 40, 70, 33, 2, 100)
NEW = 24
BYTES_OF_ONE_REQUEST = 128 * 2 * 3 * 2 * 16 * 4  # tokens, K and V, layers, KV heads, head_dim, float32


def prompts() -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(1)
    return [tuple(torch.randint(3, VOCAB, (length,), generator=generator).tolist()) for length in LENGTHS]


def counter(name: str) -> float:
    return REGISTRY.get_sample_value(f"trtpack_{name}_total") or 0.0


def greedy(prompt: Sequence[int], max_new_tokens: int = NEW) -> Prediction:
    return Prediction(tuple(prompt), SamplingParams(), max_new_tokens)


async def tokens(llm: LLM, prediction: Prediction, delay: float = 0.0) -> list[int]:
    await asyncio.sleep(delay)
    return [token async for delta in llm.deltas(prediction) for token in delta.tokens]


@pytest.fixture(scope="module")
def expected(tiny_checkpoint: Callable[[str], Path]) -> Callable[[str], list[list[int]]]:
    """What transformers generates for each prompt, alone; the end-of-sequence token included."""
    made: dict[str, list[list[int]]] = {}

    def generate(family: str) -> list[list[int]]:
        if family not in made:
            model = transformers.AutoModelForCausalLM.from_pretrained(tiny_checkpoint(family), dtype=torch.float32)
            made[family] = []
            for prompt in prompts():
                ids = torch.tensor([prompt])
                out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)
                made[family].append(out[0, len(prompt) :].tolist())
        return made[family]

    return generate


@pytest.mark.parametrize("family", FAMILIES)
def test_alone(family: str, tiny_engine: TinyEngine, expected: Callable[[str], list[list[int]]]) -> None:
    llm = LLM(tiny_engine(family))
    try:
        got = [asyncio.run(tokens(llm, greedy(prompt))) for prompt in prompts()]
    finally:
        llm.close()
    assert got == expected(family)


@pytest.mark.parametrize("budget", [7, 32, 512])
@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_batch_with_chunked_prefill(
    family: str, budget: int, tiny_engine: TinyEngine, expected: Callable[[str], list[list[int]]]
) -> None:
    """All at once, arriving at different times, under budgets that cut prompts into chunks."""

    async def all_of(llm: LLM) -> list[list[int]]:
        return await asyncio.gather(*(tokens(llm, greedy(p), 0.01 * i) for i, p in enumerate(prompts())))

    llm = LLM(tiny_engine(family, max_num_tokens=budget), scheduling=Scheduling(prefill_chunk=16))
    try:
        assert asyncio.run(all_of(llm)) == expected(family)
    finally:
        llm.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_preempted_requests_lose_and_repeat_nothing(
    family: str, tiny_engine: TinyEngine, expected: Callable[[str], list[list[int]]]
) -> None:
    """The prompts of 70 and 100 tokens fit alone, not together with the rest."""

    async def all_of(llm: LLM) -> list[list[int]]:
        return await asyncio.gather(*(tokens(llm, greedy(p)) for p in prompts()))

    llm = LLM(tiny_engine(family, max_model_len=128, max_num_tokens=64), kv_cache_bytes=BYTES_OF_ONE_REQUEST)
    try:
        assert asyncio.run(all_of(llm)) == expected(family)
        assert llm.stats().preemptions > 0
    finally:
        llm.close()


@pytest.mark.parametrize("budget", [*(pytest.param(few, marks=pytest.mark.slow) for few in (1, 3)), 16, 64, 512])
@pytest.mark.parametrize("family", FAMILIES)
def test_everything_at_once(
    family: str, budget: int, tiny_engine: TinyEngine, expected: Callable[[str], list[list[int]]]
) -> None:
    """Random arrivals, a cache that holds one long request, shared prefixes, chunks of any size, and guesses."""
    order = [index for index in range(len(LENGTHS)) for _ in range(3)]
    random.Random(budget).shuffle(order)
    guessed, hits = counter("spec_decode_num_draft_tokens"), counter("prefix_cache_hits")

    async def all_of(llm: LLM) -> list[list[int]]:
        """Enough of them at once that one must give way, the others when they like."""
        delays = [0.0] * 16 + [random.Random(budget + index).uniform(0, 0.3) for index in order[16:]]
        made = (tokens(llm, greedy(prompts()[index]), delay) for index, delay in zip(order, delays, strict=True))
        return await asyncio.gather(*made)

    llm = LLM(
        tiny_engine(family, max_model_len=128, max_num_tokens=budget),
        kv_cache_bytes=BYTES_OF_ONE_REQUEST,
        drafter=PromptLookup(shortest=1),
    )
    try:
        assert asyncio.run(all_of(llm)) == [expected(family)[index] for index in order]
        assert llm.stats().preemptions > 0 or budget == 1, "one token a step: nobody else is let in"
        assert llm.stats().free_blocks == llm.stats().total_blocks
        assert counter("prefix_cache_hits") > hits
        assert counter("spec_decode_num_draft_tokens") > guessed or budget == 1
    finally:
        llm.close()


@pytest.mark.slow
def test_smollm2(smollm2_gguf: Path, smollm2_engine: Path) -> None:
    """The real model: 10 prompts of 64 tokens, alone and all at once."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        smollm2_gguf.parent, gguf_file=smollm2_gguf.name, dtype=torch.float32
    )
    llm = LLM(smollm2_engine)
    predictions = [llm.request({"prompt": text, "max_new_tokens": 64, "temperature": 0}) for text in SMOLLM2_PROMPTS]
    want = []
    for prediction in predictions:
        ids = torch.tensor([prediction.prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=64, do_sample=False)
        want.append(out[0, ids.shape[1] :].tolist())

    async def together() -> list[list[int]]:
        return await asyncio.gather(*(tokens(llm, prediction) for prediction in predictions))

    try:
        assert [asyncio.run(tokens(llm, prediction)) for prediction in predictions] == want
        assert asyncio.run(together()) == want
    finally:
        llm.close()


SMOLLM2_PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):",
    "Once upon a time, in a small village by the sea,",
    "2 + 2 =",
    "Water boils at",
    "The three laws of thermodynamics are",
    "Q: What is the tallest mountain on Earth?\nA:",
    "Dear Sir or Madam,\n\nI am writing to",
    "import numpy as np\n\n",
    "A mistral is",
)
