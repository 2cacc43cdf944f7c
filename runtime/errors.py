"""Errors the runtime raises on purpose; the server turns each into one HTTP status."""


class InputError(ValueError):
    """The request is wrong; the text says which field and which limit. HTTP 400."""


class QueueFullError(RuntimeError):
    """The waiting queue is full; try again after `retry_after` seconds. HTTP 429."""

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineError(RuntimeError):
    """The engine cannot be loaded, or stopped; the text says why and what to do."""


class RegistryError(EngineError):
    """What is in a registry cannot be had, or not be put there; the text says why and what to do."""


class DeadlineError(EngineError):
    """The request's own timeout passed before its answer was whole. HTTP 504."""
