"""Answers held to a grammar: a random model, which would never write them by itself."""

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import llguidance
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from runtime.errors import EngineError, InputError
from runtime.guide import Grammar, Guides
from runtime.llm import LLM
from runtime.prediction import Prediction
from runtime.request import Delta, FinishReason
from runtime.sampling import SamplingParams
from runtime.speculation import PromptLookup
from tests import engines
from tests.conftest import TinyEngine
from tests.tiny import VOCAB, make_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

EOS = 2
NAME = {"type": "string", "pattern": "^[a-z]{1,6}$"}
SCHEMAS: Mapping[str, dict[str, Any]] = {
    "flat": {
        "type": "object",
        "properties": {"a": {"enum": ["yes", "no", None]}, "b": {"type": "boolean"}, "c": {"const": 7}},
        "required": ["a", "b", "c"],
        "additionalProperties": False,
    },
    "nested": {
        "type": "object",
        "properties": {
            "who": {
                "type": "object",
                "properties": {"name": NAME, "size": {"enum": [1, 2.5, "x"]}},
                "required": ["name", "size"],
                "additionalProperties": False,
            }
        },
        "required": ["who"],
        "additionalProperties": False,
    },
    "arrays": {
        "type": "array",
        "items": {"anyOf": [{"type": "boolean"}, {"type": "array", "items": NAME, "minItems": 1, "maxItems": 2}]},
        "minItems": 2,
        "maxItems": 3,
    },
    "reference": {"$defs": {"n": {"type": "integer", "minimum": 5, "maximum": 12}}, "$ref": "#/$defs/n"},
}
SAMPLERS = [{"temperature": 0.0}, *({"temperature": 1.5, "seed": seed} for seed in range(4))]


@pytest.fixture(scope="module")
def llm(tiny_engine: TinyEngine) -> Iterator[LLM]:
    llm = LLM(tiny_engine())
    yield llm
    llm.close()
    stats = llm.stats()
    assert stats.free_blocks == stats.total_blocks


def asked(llm: LLM, **inputs: Any) -> Prediction:
    return llm.request({"prompt": "the quick fox", "max_new_tokens": 200, "temperature": 0.0, **inputs})


async def whole(llm: LLM, prediction: Prediction) -> list[Delta]:
    return [delta async for delta in llm.deltas(prediction)]


def text(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def ids(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in delta.tokens]


@pytest.mark.parametrize("name", SCHEMAS)
async def test_every_answer_to_a_json_schema_parses_and_is_valid(llm: LLM, name: str) -> None:
    schema = SCHEMAS[name]
    answers = await asyncio.gather(*(whole(llm, asked(llm, json_schema=schema, **sampler)) for sampler in SAMPLERS))
    for answer in answers:
        assert answer[-1].finish_reason is FinishReason.STOP
        jsonschema.validate(json.loads(text(answer)), schema)
    assert len(set(map(text, answers))) > 1, "the schema leaves a choice, and the model makes it"


@pytest.mark.parametrize("sampler", SAMPLERS)
async def test_a_regular_expression_is_matched_to_its_end(llm: LLM, sampler: dict[str, float]) -> None:
    pattern = r"(fox|hen)(-[0-9]{2}){1,3}; é?"
    deltas = await whole(llm, asked(llm, regex=pattern, **sampler))
    assert re.fullmatch(pattern, text(deltas))
    assert deltas[-1].finish_reason is FinishReason.STOP


@pytest.mark.parametrize("sampler", SAMPLERS)
async def test_a_lark_grammar_is_followed(llm: LLM, sampler: dict[str, float]) -> None:
    grammar = 'start: sum "="\nsum: N ("+" N){1,4}\nN: /[1-9]/'
    deltas = await whole(llm, asked(llm, grammar=grammar, **sampler))
    assert re.fullmatch(r"[1-9](\+[1-9]){1,4}=", text(deltas))
    assert deltas[-1].finish_reason is FinishReason.STOP


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"json_schema": {"type": "sausage"}}, "json_schema: .*sausage"),
        ({"json_schema": {"type": "integer", "minimum": 5, "maximum": 4}}, "json_schema: .*minimum"),
        ({"json_schema": {"$ref": "#/$defs/missing"}}, "json_schema: .*missing"),
        ({"regex": "(a"}, "regex: .*unclosed group"),
        ({"regex": "(?=a)b"}, "regex: .*look"),
        ({"grammar": "start: nothing"}, "grammar: .*nothing"),
        ({"grammar": ""}, "grammar: "),
        ({"grammar": 'start: "a"', "regex": "a"}, "one of json_schema, regex and grammar"),
    ],
)
def test_what_is_no_grammar_is_refused_in_the_library_s_words(llm: LLM, inputs: dict[str, Any], message: str) -> None:
    """By `request`, so before anything is computed."""
    with pytest.raises(InputError, match=message):
        asked(llm, **inputs)


async def test_an_invalid_grammar_that_was_not_checked_runs_nothing(llm: LLM) -> None:
    unchecked = replace(asked(llm), grammar=Grammar("regex", "(a"))
    with pytest.raises(InputError, match="regex"):
        await whole(llm, unchecked)
    assert llm.stats().running == llm.stats().waiting == 0


async def test_max_new_tokens_cuts_a_guided_answer(llm: LLM) -> None:
    deltas = await whole(llm, asked(llm, regex="[ab]{30}", max_new_tokens=5))
    assert deltas[-1].finish_reason is FinishReason.LENGTH
    assert re.fullmatch("[ab]{5,30}", text(deltas))
    assert len(ids(deltas)) == 5


async def test_where_the_grammar_leaves_a_choice_the_model_ends_it_with_eos(llm: LLM) -> None:
    deltas = await whole(llm, asked(llm, regex="(ab)+", logit_bias={EOS: 100.0}))
    assert (text(deltas), ids(deltas)[-1], deltas[-1].finish_reason) == ("ab", EOS, FinishReason.STOP)


async def test_ignoring_eos_does_not_go_on_after_the_grammar_s_end(llm: LLM) -> None:
    deltas = await whole(llm, asked(llm, regex="fox|hen", ignore_eos=True))
    assert text(deltas) in ("fox", "hen")
    assert deltas[-1].finish_reason is FinishReason.STOP


async def test_min_tokens_beyond_the_grammar_s_end_end_with_it(llm: LLM) -> None:
    deltas = await whole(llm, asked(llm, regex="fox|hen", min_tokens=20))
    assert text(deltas) in ("fox", "hen")


async def test_a_stop_string_cuts_a_guided_answer(llm: LLM) -> None:
    deltas = await whole(llm, asked(llm, regex="[ab]{3}xyz[ab]{3}", stop=["xy"]))
    assert re.fullmatch("[ab]{3}", text(deltas))
    assert (deltas[-1].finish_reason, deltas[-1].stop) == (FinishReason.STOP, "xy")


async def test_a_stop_string_with_the_grammar_s_end_is_cut_off_too(llm: LLM) -> None:
    deltas = await whole(llm, asked(llm, regex="[ab]{3}x", stop=["x"]))
    assert re.fullmatch("[ab]{3}", text(deltas))
    assert deltas[-1].stop == "x"


async def test_logprobs_of_a_guided_answer_are_the_model_s_own(llm: LLM) -> None:
    deltas = await whole(llm, asked(llm, regex="[ab]{8}", logprobs=20))
    told = [told for delta in deltas for told in delta.logprobs]
    assert [one.chosen.token for one in told] == ids(deltas)
    assert any(one.chosen.rank > 1 for one in told), "the grammar's token is not what the model would have written"
    assert all(one.top[0].rank == 1 and one.top[0].logprob >= one.chosen.logprob for one in told)


async def test_a_guided_request_leaves_others_in_the_batch_as_they_are(llm: LLM) -> None:
    free = [asked(llm, max_new_tokens=40, temperature=1.0, seed=seed) for seed in range(4)]
    guided = asked(llm, regex="[a-z ]{40}", temperature=1.0, seed=0)
    alone = [ids(await whole(llm, prediction)) for prediction in (*free, guided)]
    together = await asyncio.gather(*(whole(llm, prediction) for prediction in (*free, guided)))
    assert [ids(deltas) for deltas in together] == alone


async def test_guided_answers_are_the_same_under_preemption(llm: LLM, tiny_engine: TinyEngine) -> None:
    pressed = LLM(tiny_engine(max_model_len=128), kv_cache_bytes=128 * 2 * 3 * 2 * 16 * 4)
    predictions = [
        asked(pressed, regex="[a-z ]{100}", temperature=1.0, seed=seed, max_new_tokens=110) for seed in range(4)
    ]
    try:
        together = await asyncio.gather(*(whole(pressed, prediction) for prediction in predictions))
        assert pressed.stats().preemptions > 0
    finally:
        pressed.close()
    assert [ids(deltas) for deltas in together] == [ids(await whole(llm, prediction)) for prediction in predictions]
    assert all(re.fullmatch("[a-z ]{100}", text(deltas)) for deltas in together)


async def test_guided_answers_are_the_same_with_a_drafter(llm: LLM, tiny_engine: TinyEngine) -> None:
    drafting = LLM(tiny_engine(), drafter=PromptLookup(shortest=1))
    prediction = asked(llm, regex="(ab ?){20}")
    try:
        assert ids(await whole(drafting, prediction)) == ids(await whole(llm, prediction))
    finally:
        drafting.close()


async def test_several_guided_answers_to_one_prompt_are_all_held_to_it(llm: LLM) -> None:
    prediction = asked(llm, regex="[a-z]{5}", n=4, temperature=1.5, seed=1)
    completion = await llm.complete(prediction)
    texts = [answer.text for answer in completion.answers]
    assert all(re.fullmatch("[a-z]{5}", one) for one in texts)
    assert len(set(texts)) > 1


async def test_constraints_that_leave_nothing_fail_that_request_alone(llm: LLM) -> None:
    impossible = replace(asked(llm, regex="[ab]{8}"), sampling=SamplingParams(allowed_token_ids=(EOS,)))
    good = asked(llm, regex="[ab]{8}")
    results = await asyncio.gather(whole(llm, impossible), whole(llm, good), return_exceptions=True)
    assert isinstance(results[0], EngineError) and "no token is allowed" in str(results[0])
    assert not isinstance(results[1], BaseException)
    assert re.fullmatch("[ab]{8}", text(results[1]))


@pytest.fixture
def guides(tmp_path: Path) -> Guides:
    make_tokenizer().save_pretrained(tmp_path)
    return Guides(tmp_path / "tokenizer.json", [EOS])


def test_the_padding_of_a_vocabulary_cannot_be_drawn(guides: Guides) -> None:
    """Checkpoints round their vocabulary up: more logits than the tokenizer has tokens."""
    logits = torch.zeros(VOCAB + 64)
    guides.guide(Grammar("regex", "[ab]+")).bar(logits)
    allowed = logits.isfinite().nonzero().flatten().tolist()
    assert {make_tokenizer().decode([token]) for token in allowed} == {"a", "b"}


def test_fewer_logits_than_tokens_are_barred_as_far_as_they_go(guides: Guides) -> None:
    logits = torch.zeros(VOCAB - 10)
    guides.guide(Grammar("regex", "[ab]+")).bar(logits)
    assert 0 < logits.isfinite().sum() <= 2


def test_a_guide_refuses_a_token_outside_its_grammar(guides: Guides) -> None:
    guide = guides.guide(Grammar("regex", "ab"))
    with pytest.raises(ValueError, match="outside the grammar"):
        guide.accept(make_tokenizer().encode("x")[0])


def test_two_guides_of_one_grammar_stand_in_their_own_places(guides: Guides) -> None:
    a, b = (make_tokenizer().encode(letter)[0] for letter in "ab")
    first, second = (guides.guide(Grammar("regex", "ab")) for _ in range(2))
    first.accept(a)
    first.accept(b)
    assert first.ended and not second.ended
    second.accept(a)
    assert not second.ended


def test_a_grammar_that_comes_again_is_compiled_once(guides: Guides, monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = llguidance.LLMatcher, list[str]()

    class Counting:
        grammar_from_json_schema = real.grammar_from_json_schema
        grammar_from_regex = real.grammar_from_regex
        grammar_from_lark = real.grammar_from_lark

        def __new__(cls, tokenizer: Any, grammar: str, **options: Any) -> Any:
            made.append(grammar)
            return real(tokenizer, grammar, **options)

    monkeypatch.setattr(llguidance, "LLMatcher", Counting)
    for pattern in ("a+", "b+", "a+", "b+", "a+"):
        guides.guide(Grammar("regex", pattern))
    assert len(made) == 2


def test_guides_are_made_and_followed_from_many_threads_at_once(guides: Guides) -> None:
    tokenizer = make_tokenizer()

    def follow(length: int) -> str:
        guide = guides.guide(Grammar("regex", f"[ab]{{{length % 4 + 1}}}x"))
        taken: list[int] = []
        while not guide.ended:
            logits = torch.zeros(VOCAB)
            guide.bar(logits)
            taken.append(int(logits.isfinite().nonzero()[0]))
            guide.accept(taken[-1])
        return str(tokenizer.decode(taken, skip_special_tokens=True))

    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(follow, range(32)))
    assert all(re.fullmatch(f"[ab]{{{i % 4 + 1}}}x", one) for i, one in enumerate(texts))


async def test_a_tokenizer_that_cannot_guide_serves_what_is_not_guided(tiny_engine: TinyEngine, tmp_path: Path) -> None:
    """Words of a list, which say nothing about the characters in them."""
    folder = engines.copy(tiny_engine(), tmp_path / "engine")
    words = Tokenizer(models.WordLevel({f"w{index}": index for index in range(VOCAB)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(folder / "tokenizer" / "tokenizer.json"))
    llm = LLM(engines.rewrite(folder))
    try:
        for _ in range(2):
            with pytest.raises(InputError, match=r"regex: answers of this model cannot be guided: .*decoder"):
                llm.request({"prompt": "w5 w6", "regex": "a+"})
        assert len(ids(await whole(llm, llm.request({"prompt": "w5 w6", "max_new_tokens": 4})))) == 4
    finally:
        llm.close()
