"""Guesses change how fast an answer comes, and nothing of the answer."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace

import pytest

from runtime.llm import LLM
from runtime.prediction import Prediction
from runtime.request import Delta, FinishReason
from runtime.sampling import SamplingParams
from runtime.speculation import Drafter, DraftModel
from tests.conftest import TinyEngine
from tests.generation import DRAFTS, Counted, answers, text, tokens

Run = Callable[..., list[list[Delta]]]
Make = Callable[..., DraftModel]
NUCLEUS = {"temperature": 1.0, "top_p": 0.9}
PENALTIES = {"temperature": 0.8, "repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.5}


def predictions(new: int = 40, **sampling: float) -> list[Prediction]:
    """Prompts of no structure, and some that repeat themselves."""
    prompts = [tuple(range(10, 10 + length)) for length in (1, 5, 33)]
    prompts += [(7, 8, 9) * 12, (50, 60, 70, 80, 90) * 3]
    return [
        Prediction(prompt, SamplingParams(seed=seed, **sampling), new)  # type: ignore[arg-type]
        for seed, prompt in enumerate(prompts)
    ]


@pytest.mark.parametrize("name", DRAFTS)
@pytest.mark.parametrize("sampling", [{}, NUCLEUS, PENALTIES, {"temperature": 1.0, "top_k": 5}], ids=str)
def test_a_batch_is_answered_as_without(
    name: str, sampling: dict[str, float], plain: LLM, run: Run, drafter: Callable[[str], Drafter]
) -> None:
    asked = predictions(**sampling)
    with Counted() as drafts:
        got = [tokens(deltas) for deltas in run(asked, drafter(name))]
    assert got == [tokens(deltas) for deltas in answers(plain, asked)]
    assert drafts.guessed


@pytest.mark.parametrize("sampling", [{}, NUCLEUS, PENALTIES], ids=str)
def test_a_model_that_guesses_for_itself_is_always_right(sampling: dict[str, float], run: Run, draft: Make) -> None:
    with Counted() as drafts:
        (deltas,) = run([replace(predictions(51, **sampling)[2], ignore_eos=True)], draft("same"))
    assert drafts.right == drafts.guessed == 40
    assert [len(delta.tokens) for delta in deltas] == [1, *[5] * 10]


def test_a_model_that_knows_nothing_is_hardly_ever_right(run: Run, draft: Make) -> None:
    with Counted() as drafts:
        run(predictions(temperature=1.0), draft("other"))
    assert drafts.right < 0.2 * drafts.guessed


def test_an_answer_ends_where_it_would_without(plain: LLM, run: Run, draft: Make) -> None:
    """In the midst of guesses that are all right: a stop string, a stop token, EOS, and the room there is."""
    (whole,) = answers(plain, [(asked := predictions(60)[1])])
    said, ids = text(whole), tokens(whole)
    cases = [
        replace(asked, stop=(said[20:23],)),
        replace(asked, stop=(said[20:23],), include_stop=True),
        replace(asked, stop_token_ids=frozenset({ids[17]})),
        replace(asked, sampling=SamplingParams(min_tokens=9, logit_bias={2: 100.0})),
        *(replace(asked, max_new_tokens=new) for new in range(1, 8)),
    ]

    def summary(deltas: list[Delta]) -> tuple[object, ...]:
        return tokens(deltas), text(deltas), deltas[-1].finish_reason, deltas[-1].stop

    expected = [summary(deltas) for deltas in answers(plain, cases)]
    assert [summary(deltas) for deltas in run(cases, draft("same"))] == expected
    assert {reason for *_, reason, _ in expected} == {FinishReason.STOP, FinishReason.LENGTH}


def test_log_probabilities_are_the_models(plain: LLM, run: Run, draft: Make) -> None:
    asked = [replace(predictions(20)[1], sampling=SamplingParams(logprobs=2, prompt_logprobs=0))]
    (expected,), (got,) = answers(plain, asked), run(asked, draft("near"))
    told = [[told.chosen.logprob for delta in deltas for told in delta.logprobs] for deltas in (expected, got)]
    assert told[1] == pytest.approx(told[0], abs=1e-4)
    assert sum(bool(delta.prompt_logprobs) for delta in got) == 1


@pytest.mark.parametrize("name", ["near", "other"])
def test_what_was_guessed_wrong_is_not_in_the_cache(
    name: str, plain: LLM, tiny_engine: TinyEngine, draft: Make
) -> None:
    """The next turn takes the last one's blocks, and is answered as if it had not."""
    llm = LLM(tiny_engine(), kv_cache_bytes=2**26, drafter=draft(name))
    first = predictions(100, temperature=1.0)[1]
    said = tuple(tokens(answers(llm, [first])[0]))
    turn = replace(first, prompt=(*first.prompt, *said, 11, 12), max_new_tokens=30)
    got = tokens(answers(llm, [turn])[0])
    llm.close()
    plain.reset_prefix_cache()
    assert got == tokens(answers(plain, [turn])[0])


@pytest.mark.parametrize("name", ["same", "near", "lookup"])
def test_preempted_requests_go_on_as_they_would(
    name: str, plain: LLM, tiny_engine: TinyEngine, drafter: Callable[[str], Drafter]
) -> None:
    block = 2 * 3 * 16 * 32 * 4  # keys and values, layers, tokens, KV width, bytes
    llm = LLM(tiny_engine(max_model_len=128), kv_cache_bytes=12 * block, drafter=drafter(name))
    asked = predictions(70, temperature=1.0)
    got = answers(llm, asked)
    stats = llm.stats()
    llm.close()
    assert stats.preemptions and stats.free_blocks == stats.total_blocks == 12
    assert list(map(tokens, got)) == list(map(tokens, answers(plain, asked)))


def test_a_draft_that_fails_fails_nobody(plain: LLM, run: Run, draft: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = draft("same")
    monkeypatch.setattr(failing, "propose", lambda requests: 1 / 0)
    asked = predictions()
    assert list(map(tokens, run(asked, failing))) == list(map(tokens, answers(plain, asked)))


def test_what_is_left_midway_is_freed_in_both_caches(tiny_engine: TinyEngine, draft: Make) -> None:
    guessing = draft("near")
    llm = LLM(tiny_engine(), kv_cache_bytes=2**26, drafter=guessing)

    async def leave(prediction: Prediction, after: int) -> None:
        async with aclosing(llm.deltas(prediction)) as deltas:
            async for _ in deltas:
                if not (after := after - 1):
                    return

    async def every() -> None:
        await asyncio.gather(*(leave(asked, index + 1) for index, asked in enumerate(predictions(400))))

    asyncio.run(every())
    llm.drain()
    assert llm.stats().free_blocks == llm.stats().total_blocks
    assert guessing.pool.num_free == guessing.pool.num_blocks
