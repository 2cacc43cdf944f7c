"""Errors a user can act on."""


class TrtpackError(Exception):
    """What is wrong and where (`message`), and what to do (`hint`); ends the command with `exit_code`."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class ConfigError(TrtpackError):
    """config.yaml, or the way a command was called, is wrong."""

    exit_code = 2
