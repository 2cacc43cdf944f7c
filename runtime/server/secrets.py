"""The secrets that config.yaml declares, read when the model asks."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

FOLDER = Path("/secrets")


class SecretError(KeyError):
    """A secret is not declared, or has no value; the text says where one may be set."""

    def __str__(self) -> str:
        return str(self.args[0])


class Secrets(Mapping[str, str]):
    """Name to value: `folder`/NAME, else the variable TRUSS_SECRET_NAME, else the default in config.yaml."""

    def __init__(self, declared: object, folder: Path = FOLDER) -> None:
        self._defaults = dict(declared) if isinstance(declared, Mapping) else {}
        self._folder = folder

    def __getitem__(self, name: str) -> str:
        if name not in self._defaults:
            raise SecretError(f"secret {name!r} is not declared; name it under `secrets:` in config.yaml")
        file, variable = self._folder / name, f"TRUSS_SECRET_{name}"
        if file.is_file():
            # `kubectl create secret --from-file` keeps an editor's last newline.
            return file.read_text(encoding="utf-8").removesuffix("\n")
        value = os.environ.get(variable, self._defaults[name])
        if value is None:
            raise SecretError(f"secret {name!r} has no value; mount {file} or set {variable}")
        return str(value)

    def __iter__(self) -> Iterator[str]:
        return iter(self._defaults)

    def __len__(self) -> int:
        return len(self._defaults)
