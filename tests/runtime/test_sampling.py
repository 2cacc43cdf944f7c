"""What is drawn, against the textbook's way in plain Python; and that a row is nobody else's business."""

import math
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from runtime.errors import EngineError
from runtime.sampling import Choice, Draw, SamplingParams, sample
from runtime.sampling.adjustments import adjusted

LOGITS = torch.tensor([0.5, 2.0, -1.0, 1.5, 0.0, 1.0, -3.0, 0.7])


def tokens(logits: Tensor, draws: Sequence[Draw]) -> list[int]:
    choices = sample(logits, draws)
    assert not any(choice.error for choice in choices)
    return [choice.token for choice in choices]


def frequencies(logits: Tensor, params: SamplingParams, draws: int = 20000) -> list[float]:
    counts = Counter(tokens(logits.expand(draws, -1), [Draw(params, position) for position in range(draws)]))
    return [counts[token] / draws for token in range(logits.shape[-1])]


def reference(logits: Tensor, params: SamplingParams) -> list[float]:
    """One row, plain Python; tokens as likely as the last that stays stay too."""
    scaled = {token: value / params.temperature for token, value in enumerate(logits.tolist())}
    best = max(scaled.values())
    weights = {token: math.exp(value - best) for token, value in scaled.items()}
    weights = {token: weight for token, weight in weights.items() if weight >= params.min_p}
    if params.top_k:
        least = sorted(weights.values(), reverse=True)[: params.top_k][-1]
        weights = {token: weight for token, weight in weights.items() if weight >= least}
    total, mass, least = sum(weights.values()), 0.0, best
    for weight in sorted(weights.values(), reverse=True):
        if mass / total >= params.top_p and mass:
            break
        mass, least = mass + weight, weight
    weights = {token: weight for token, weight in weights.items() if weight >= least}
    return [weights.get(token, 0.0) / sum(weights.values()) for token in scaled]


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.5])
@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"),
    [(0, 1, 0), (3, 1, 0), (0, 0.6, 0), (4, 0.8, 0), (100, 1, 0), (0, 1e-6, 0), (0, 1, 0.2), (5, 0.9, 0.1)],
)
def test_distribution_by_chi_square(temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    params = SamplingParams(temperature, top_k, top_p, min_p, seed=3)
    expected, got = reference(LOGITS, params), frequencies(LOGITS, params)
    assert all(g == 0 for g, e in zip(got, expected, strict=True) if e == 0)
    chi_square = sum(20000 * (g - e) ** 2 / e for g, e in zip(got, expected, strict=True) if e)
    assert chi_square < 30  # 7 degrees of freedom: p < 1e-4


def test_a_vocabulary_larger_than_the_candidates_is_cut_at_the_same_place() -> None:
    """Flat enough that top_p takes thousands of tokens."""
    logits = torch.linspace(0, 1, 5000)
    params = SamplingParams(1.0, top_p=0.9)
    kept = [share > 0 for share in reference(logits, params)]
    drawn = tokens(logits.expand(4000, -1), [Draw(params, position) for position in range(4000)])
    assert all(kept[token] for token in drawn)
    assert min(drawn) < kept.index(True) + 20


def test_equal_logits_are_all_in_or_all_out() -> None:
    """As in bfloat16, where ties are frequent: no order of a sort decides."""
    logits = torch.tensor([1.0, 3.0, 1.0, 1.0, 0.0])
    got = frequencies(logits, SamplingParams(1.0, top_k=2), draws=3000)
    assert all(share > 0 for share in got[:4])
    assert got[4] == 0


def test_zero_temperature_and_top_k_1_are_greedy() -> None:
    draws = [Draw(SamplingParams(0.0, seed=1), 5), Draw(SamplingParams(1.0, top_k=1, seed=2), 5)]
    assert tokens(LOGITS.expand(2, -1), draws) == [1, 1]


def test_a_tiny_temperature_is_greedy_and_not_nan() -> None:
    assert tokens(LOGITS[None] * 1e4, [Draw(SamplingParams(1e-30, seed=1), 0)]) == [1]


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 3000, generator=generator)
    params = [
        SamplingParams(),
        SamplingParams(1.0, seed=1),
        SamplingParams(1.0, top_k=5, seed=2),
        SamplingParams(2.0, top_k=700, top_p=0.5, seed=3),
        SamplingParams(1.0, top_p=0.999, seed=4),
        SamplingParams(1.0, min_p=0.3, seed=5),
        SamplingParams(1.0, repetition_penalty=1.5, seed=6, logprobs=2),
        SamplingParams(1.5, top_p=0.2, seed=7, logit_bias={5: 3.0}),
    ]
    draws = [Draw(row, index, lambda: [1, 2, 3], 1) for index, row in enumerate(params)]
    together = sample(logits, draws)
    assert [choice.token for choice in together] == [
        sample(logits[row : row + 1], [draws[row]])[0].token for row in range(8)
    ]


def test_seeds_and_positions_differ() -> None:
    flat = torch.zeros(200, 1000)
    by_seed = tokens(flat, [Draw(SamplingParams(1.0, seed=seed), 0) for seed in range(200)])
    by_position = tokens(flat, [Draw(SamplingParams(1.0, seed=0), position) for position in range(200)])
    assert len(set(by_seed)) > 150
    assert len(set(by_position)) > 150
    assert by_seed != by_position


def test_masked_tokens_are_never_drawn() -> None:
    logits = torch.full((500, 20), -torch.inf)
    logits[:, 4] = 0.0
    assert set(tokens(logits, [Draw(SamplingParams(1.0, seed=s), s) for s in range(500)])) == {4}


Ids = st.lists(st.integers(0, 7), max_size=12)


@given(
    Ids,
    Ids,
    st.floats(0.5, 2),
    st.floats(-2, 2),
    st.floats(-2, 2),
    st.dictionaries(st.integers(0, 7), st.floats(-9, 9)),
)
def test_penalties_and_bias_against_a_plain_reference(
    prompt: list[int], answer: list[int], repetition: float, presence: float, frequency: float, bias: dict[int, float]
) -> None:
    params = SamplingParams(
        repetition_penalty=repetition, presence_penalty=presence, frequency_penalty=frequency, logit_bias=bias
    )
    expected = []
    for token, value in enumerate(LOGITS.tolist()):
        value += bias.get(token, 0.0)
        if token in prompt or token in answer:
            value = value / repetition if value > 0 else value * repetition
        expected.append(value - presence * (token in answer) - frequency * answer.count(token))
    got = adjusted(LOGITS.clone(), Draw(params, 0, lambda: [*prompt, *answer], len(prompt)))
    torch.testing.assert_close(got, torch.tensor(expected), rtol=1e-4, atol=1e-4)


def greedy(known: Sequence[int] = (), **params: object) -> int:
    return tokens(LOGITS[None].clone(), [Draw(SamplingParams(**params), len(known), lambda: known)])[0]  # type: ignore[arg-type]


def test_allowed_tokens_alone_are_chosen() -> None:
    assert greedy(allowed_token_ids=(2, 4, 6)) == 4


def test_a_bad_word_of_one_token_never_comes_one_of_several_not_after_its_beginning() -> None:
    assert greedy(bad_words=((1,),)) == 3
    assert greedy([7, 1], bad_words=((7, 1, 1),)) == 3
    assert greedy([1, 7], bad_words=((7, 1, 1),)) == 1
    assert greedy([1], bad_words=((7, 1, 1),)) == 1


def test_barred_tokens_are_out() -> None:
    assert tokens(LOGITS[None], [Draw(SamplingParams(), 0, barred=frozenset({1, 3}))]) == [5]


def test_logits_are_left_as_they_were() -> None:
    logits = LOGITS[None].clone()
    sample(logits, [Draw(SamplingParams(logit_bias={0: 50.0}), 0)])
    assert torch.equal(logits, LOGITS[None])


def test_logprobs_are_the_models_own() -> None:
    """Before bias and temperature; so many of the likeliest, best first, and the chosen one's rank."""
    choice = sample(LOGITS[None], [Draw(SamplingParams(logprobs=2, logit_bias={4: 50.0}), 0)])[0]
    own = LOGITS.log_softmax(-1)
    assert choice.token == 4 and choice.logprobs
    assert choice.logprobs.chosen.logprob == pytest.approx(own[4].item())
    assert choice.logprobs.chosen.rank == 6
    assert [(near.token, near.rank) for near in choice.logprobs.top] == [(1, 1), (3, 2)]
    assert [near.logprob for near in choice.logprobs.top] == pytest.approx(own[[1, 3]].tolist())


def test_logprobs_0_is_the_chosen_one_alone_and_the_whole_vocabulary_adds_up_to_1() -> None:
    none, whole = sample(LOGITS.expand(2, -1), [Draw(SamplingParams(logprobs=k), 0) for k in (0, 8)])
    assert none.logprobs and none.logprobs.top == ()
    assert whole.logprobs
    assert sum(math.exp(near.logprob) for near in whole.logprobs.top) == pytest.approx(1)


def failing(known: Sequence[int], logits: Tensor) -> Tensor:
    raise KeyError("my own mistake")


@pytest.mark.parametrize(
    ("spoilt", "params", "message"),
    [
        (math.nan, SamplingParams(), "nan"),
        (math.nan, SamplingParams(1.0), "nan"),
        (math.inf, SamplingParams(), "inf"),
        (0.0, SamplingParams(processors=(failing,)), "my own mistake"),
        (0.0, SamplingParams(1.0, processors=(lambda known, logits: logits[:2],)), "could not be processed"),
        (0.0, SamplingParams(1.0, processors=(lambda known, logits: logits * math.nan,)), "nan"),
        (0.0, SamplingParams(allowed_token_ids=(1,), bad_words=((1,),)), "no token is allowed"),
    ],
)
def test_a_poisoned_row_fails_alone(spoilt: float, params: SamplingParams, message: str) -> None:
    logits = LOGITS.repeat(3, 1)
    logits[1, 2] += spoilt
    draws = [Draw(SamplingParams(), 0), Draw(params, 0), Draw(SamplingParams(1.0, seed=4), 0)]
    clean, poisoned, other = sample(logits, draws)
    assert isinstance(poisoned.error, EngineError) and message in str(poisoned.error)
    assert clean == Choice(1)
    assert other == sample(LOGITS[None], [draws[2]])[0]
