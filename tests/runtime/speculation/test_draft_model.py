"""The draft's own side: what it guesses, and what it keeps of it."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from packager.checkpoint import open_checkpoint
from packager.compile.engine import compile_engine
from packager.config.engine import EngineConfig
from runtime.batch import Batch
from runtime.engine.engine import Engine
from runtime.errors import EngineError
from runtime.llm import LLM
from runtime.request import Request
from runtime.sampling import SamplingParams
from runtime.speculation import DraftModel
from runtime.text import Detokenizer
from tests import engines
from tests.conftest import TinyEngine
from tests.tiny import VOCAB, make_checkpoint

Make = Callable[..., DraftModel]
ONE_SEQUENCE = 2 * 3 * 512 * 32 * 4  # keys and values, layers, tokens, KV width, bytes


def decoding(length: int = 20, new: int = 100, first: int = 10, **sampling: float) -> Request:
    prompt = tuple((first + 7 * index) % (VOCAB - 3) + 3 for index in range(length))
    params = SamplingParams(**sampling)  # type: ignore[arg-type]
    return Request(prompt, params, new, lambda delta: None, Detokenizer(lambda ids: ""))


def proposed(draft: DraftModel, request: Request) -> list[int]:
    draft.propose([request])
    return request.drafts


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.5}], ids=str)
def test_its_guesses_do_not_hang_on_what_it_guessed_before(sampling: dict[str, float], draft: Make) -> None:
    """Right and wrong guesses in any order, several requests at once, against a draft that begins anew each time."""
    used, fresh = draft(), draft()
    requests = [decoding(length, first=length, **sampling) for length in (1, 17, 40)]
    chance = random.Random(0)
    for _ in range(8):
        used.propose(requests)
        for request in requests:
            guessed = list(request.drafts)
            fresh.forget(request)
            assert guessed == proposed(fresh, request)[: len(guessed)]
            request.tokens += [*guessed[: chance.randint(0, 4)], chance.randrange(3, VOCAB)]


def test_it_guesses_less_while_it_is_wrong_and_more_once_it_is_right(draft: Make) -> None:
    guessing, request = draft(), decoding()
    lengths = []
    for right in (False, False, False, False, False, True, True, True):
        lengths.append(len(proposed(guessing, request)))
        wrong = (request.drafts[0] + 1) % VOCAB
        request.tokens += [*request.drafts, 9] if right else [wrong]
    assert lengths == [4, 3, 2, 1, 1, 1, 3, 4]


def test_a_long_prompt_is_read_over_several_calls_and_holds_up_nobody(draft: Make) -> None:
    guessing = draft(limits={"max_num_tokens": 16})
    long, short = decoding(50), decoding(9)
    counts = []
    for _ in range(5):
        guessing.propose([long, short])
        counts.append((len(long.drafts), len(short.drafts)))
        short.tokens += [*short.drafts, 9]
    assert counts[0] == (0, 4)
    assert all(short for _, short in counts)
    assert [bool(long) for long, _ in counts] == [False, False, False, False, True]
    assert long.drafts == proposed(draft(), long)


def test_a_step_computes_no_more_than_its_engine_allows(draft: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    guessing = draft(limits={"max_num_tokens": 16})
    sizes: list[int] = []
    forward = Engine.forward

    def measured(engine: Engine, batch: Batch) -> Tensor:
        sizes.append(len(batch.tokens))
        return forward(engine, batch)

    monkeypatch.setattr(Engine, "forward", measured)
    requests = [decoding(5, first=first) for first in range(30)]
    for _ in range(12):
        guessing.propose(requests)
    assert max(sizes) == 16
    assert sum(bool(request.drafts) for request in requests) >= 3


@pytest.mark.parametrize(("new", "expected"), [(1, 0), (2, 1), (3, 2), (9, 4)])
def test_it_guesses_no_further_than_the_answer_may_go(new: int, expected: int, draft: Make) -> None:
    assert len(proposed(draft(), decoding(new=new))) == expected


def test_it_guesses_no_further_than_it_can_read(draft: Make) -> None:
    guessing, request = draft(limits={"max_model_len": 32}), decoding(27)
    lengths = []
    for _ in range(8):
        lengths.append(len(proposed(guessing, request)))
        request.tokens.append(9)
        request.drafts = []
    assert lengths[0] == 4
    assert lengths[5:] == [1, 0, 0]
    assert guessing.pool.num_free == guessing.pool.num_blocks


def test_whoever_was_longest_without_a_guess_makes_room(draft: Make) -> None:
    guessing = draft(kv_cache_bytes=ONE_SEQUENCE)
    assert guessing.pool.num_blocks == 32
    first, second, third = (decoding(200, first=first) for first in range(3))
    guessing.propose([first, second, third])
    assert [len(request.drafts) for request in (first, second, third)] == [4, 4, 0]
    guessing.propose([second])
    assert proposed(guessing, third), "the first one's blocks are free to take"
    assert guessing.pool.num_free == 32 - 2 * 13
    for request in (first, second, third):
        guessing.forget(request)
    assert guessing.pool.num_free == 32


def test_in_a_pool_for_one_the_first_keeps_its_place(draft: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that take turns in throwing each other out would read their prompts again at every step."""
    guessing = draft(kv_cache_bytes=ONE_SEQUENCE)
    requests = [decoding(300, first=first) for first in range(2)]
    guessing.propose(requests)
    computed: list[int] = []
    forward = Engine.forward
    monkeypatch.setattr(
        Engine, "forward", lambda engine, batch: computed.append(len(batch.tokens)) or forward(engine, batch)
    )
    for _ in range(3):
        requests[0].tokens += [*requests[0].drafts, 9]
        guessing.propose(requests)
    assert [bool(request.drafts) for request in requests] == [True, False]
    assert max(computed) <= 2


def test_another_vocabulary_is_refused(tiny_engine: TinyEngine, draft: Make, tmp_path: Path) -> None:
    other = engines.copy(tiny_engine(), tmp_path / "engine")
    tokenizer = other / "tokenizer" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"<|im_end|>"', '"<|the_end|>"'))
    engines.rewrite(other)
    with pytest.raises(EngineError, match="another vocabulary than"):
        LLM(tiny_engine(), drafter=DraftModel(other, kv_cache_bytes=2**26))


def test_a_tokenizer_that_is_only_written_otherwise_is_not(
    tiny_engine: TinyEngine, draft: Make, tmp_path: Path
) -> None:
    other = engines.copy(tiny_engine(), tmp_path / "engine")
    tokenizer = other / "tokenizer" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    engines.rewrite(other)
    draft().check(other)


def test_embeddings_padded_to_another_size_do(tiny_engine: TinyEngine, tmp_path: Path) -> None:
    """Both ways; and a token that only the larger one has is nothing to guess after."""
    checkpoint = make_checkpoint("llama", tmp_path / "checkpoint", vocab_size=VOCAB + 64)
    config = EngineConfig(checkpoint=str(checkpoint), dtype="float32")
    compile_engine(open_checkpoint(str(checkpoint), checkpoint), config, tmp_path / "engine")
    pair = [tiny_engine(), tmp_path / "engine"]
    for small, large in (pair, pair[::-1]):
        guessing = DraftModel(small, kv_cache_bytes=2**26)
        guessing.check(large)
        requests = [decoding(temperature=9.0, seed=seed) for seed in range(40)]
        guessing.propose(requests)
        assert all(len(request.drafts) == 4 for request in requests)
        assert max(max(request.drafts) for request in requests) < VOCAB
    guessing = DraftModel(pair[0], kv_cache_bytes=2**26)
    guessing.check(pair[1])
    request = decoding()
    request.tokens.append(VOCAB + 3)
    assert proposed(guessing, request) == []


def test_without_tokens_it_is_no_draft(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        DraftModel(tmp_path, tokens=0)
