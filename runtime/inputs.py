"""What a client may send to `:predict`."""

from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from runtime.errors import InputError

# The OpenAI spelling of three fields, accepted beside ours.
_ALIASES = {"max_tokens": "max_new_tokens", "stream": "streaming"}


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half of a surrogate pair, which is no character") from error
    return text


Text = Annotated[str, StringConstraints(strict=True), AfterValidator(_encodable)]


class ChatMessage(BaseModel):
    """One turn; other keys than these two go to the chat template as they are."""

    model_config = ConfigDict(extra="allow")

    role: Annotated[str, StringConstraints(min_length=1)]
    content: Text


class PredictInput(BaseModel):
    """A prompt or messages, and how to continue them; None takes the model's own default.

    `max_new_tokens` None is 512, or what the context has room for; `temperature` 0 is greedy; `top_k` 0 is
    off; `streaming_interval` is in tokens a chunk.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    prompt: Text | None = None
    messages: list[ChatMessage] | None = Field(default=None, min_length=1)
    max_new_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0)
    top_k: int | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = None
    stop: list[Annotated[str, StringConstraints(min_length=1)]] = Field(default=[], max_length=16)
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
