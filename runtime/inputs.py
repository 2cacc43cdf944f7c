"""What a client may send to `:predict`."""

from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from runtime.errors import InputError

# OpenAI's, vLLM's and transformers' spellings of fields, accepted beside ours.
_ALIASES = {
    "max_tokens": "max_new_tokens",
    "stream": "streaming",
    "min_new_tokens": "min_tokens",
    "num_return_sequences": "n",
    "num_beams": "beam_width",
    "include_stop_str_in_output": "include_stop",
    "stop_strings": "stop",
}


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half of a surrogate pair, which is no character") from error
    return text


Text = Annotated[str, StringConstraints(strict=True), AfterValidator(_encodable)]
NonEmpty = Annotated[str, StringConstraints(strict=True, min_length=1), AfterValidator(_encodable)]


class ChatMessage(BaseModel):
    """One turn; other keys than these two go to the chat template as they are."""

    model_config = ConfigDict(extra="allow")

    role: NonEmpty
    content: Text


Token = Annotated[int, Field(ge=0)]
TokenKey = Annotated[int, Field(ge=0, strict=False)]  # keys of JSON objects are strings
Penalty = Annotated[float, Field(ge=-2, le=2)]
# What a request may ask of the sampler in one step, so that a few requests cannot stall everybody's.
_MOST_LOGPROBS, _MOST_ANSWERS, _MOST_STOPS = 20, 64, 16
# What beam search, which ranks by the model's own log-probabilities, does not heed.
_NOT_OF_BEAMS = (
    "best_of",
    "stop",
    "json_schema",
    "regex",
    "grammar",
    "prompt_logprobs",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "bad_words",
    "allowed_token_ids",
)


class PredictInput(BaseModel):
    """A prompt or messages, and how to continue them; None takes the model's own default.

    `max_new_tokens` None is the engine's default, or what the context has room for; `temperature` 0 is greedy; `top_k`
    0 or -1 is off; `streaming_interval` is in tokens a chunk; `timeout` in seconds. With `beam_width` nothing is drawn,
    and what shapes a draw (`temperature` to `min_p`, `seed`) does nothing. See runtime.sampling.SamplingParams for the
    rest.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    prompt: Text | None = None
    messages: list[ChatMessage] | None = Field(default=None, min_length=1)
    max_new_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0)
    top_k: int | None = Field(default=None, ge=-1)
    top_p: float | None = Field(default=None, gt=0, le=1)
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0, le=10)
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: dict[TokenKey, Annotated[float, Field(ge=-100, le=100)]] = {}
    bad_words: list[NonEmpty] = Field(default=[], max_length=_MOST_STOPS)
    allowed_token_ids: list[Token] = []
    seed: int | None = None
    stop: list[NonEmpty] = Field(default=[], max_length=_MOST_STOPS)
    stop_token_ids: list[Token] = []
    include_stop: bool = False
    min_tokens: int = Field(default=0, ge=0)
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = Field(default=None, ge=0, le=_MOST_LOGPROBS)
    prompt_logprobs: int | None = Field(default=None, ge=0, le=_MOST_LOGPROBS)
    n: int = Field(default=1, ge=1, le=_MOST_ANSWERS)
    best_of: int | None = Field(default=None, ge=1, le=_MOST_ANSWERS)
    beam_width: int | None = Field(default=None, ge=1, le=_MOST_LOGPROBS // 2)
    length_penalty: float = Field(default=1.0, ge=-10, le=10)
    json_schema: dict[str, Any] | None = None
    regex: Text | None = None
    grammar: Text | None = None
    adapter: Text | None = None
    priority: int = 0
    timeout: float | None = Field(default=None, gt=0)
    cache_salt: Text = ""
    streaming: bool = False
    streaming_interval: int = Field(default=1, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _spellings(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError(f"expected an object with prompt or messages, got {type(data).__name__}")
        data = dict(data)
        for alias, name in _ALIASES.items():
            if alias in data:
                if name in data:
                    raise ValueError(f"{name} and {alias} are the same; send one")
                data[name] = data.pop(alias)
        if isinstance(data.get("stop"), str):
            data["stop"] = [data["stop"]]
        return data

    @model_validator(mode="after")
    def _one_input(self) -> "PredictInput":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("send either prompt or messages")
        if sum(given is not None for given in (self.json_schema, self.regex, self.grammar)) > 1:
            raise ValueError("send one of json_schema, regex and grammar")
        if self.best_of is not None and self.best_of < self.n:
            raise ValueError(f"best_of is {self.best_of}, fewer than the {self.n} of n")
        if self.beam_width is not None:
            if self.beam_width < self.n:
                raise ValueError(f"beam_width is {self.beam_width}, fewer than the {self.n} of n")
            fields = type(self).model_fields
            if given := [name for name in _NOT_OF_BEAMS if getattr(self, name) != fields[name].default]:
                raise ValueError(f"beam search does not heed {', '.join(given)}: leave out that or beam_width")
        if self.streaming and (self.n > 1 or self.best_of or self.beam_width):
            raise ValueError("a stream is one answer: leave out n, best_of and beam_width, or streaming")
        return self


def parse(inputs: Any) -> PredictInput:
    """Raises InputError, which names every field that is wrong and what it takes."""
    try:
        return PredictInput.model_validate(inputs)
    except ValidationError as error:
        raise InputError("; ".join(_explain(dict(problem)) for problem in error.errors())) from error


def _explain(problem: dict[str, Any]) -> str:
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = [*PredictInput.model_fields, *_ALIASES]
        near = get_close_matches(field, known, n=1)
        return f"unknown field {field!r}; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}")
    message = problem["msg"].removeprefix("Value error, ")
    return f"{field}: {message}, got {problem['input']!r:.60}" if field else message
