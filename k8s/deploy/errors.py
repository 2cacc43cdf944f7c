"""What a cluster refuses, or cannot do."""


class ClusterError(Exception):
    """What is wrong (`message`) and what to do (`hint`); `status` is the HTTP status, where one came."""

    def __init__(self, message: str, hint: str | None = None, status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.status = status
