"""engine.source of config.yaml, as the server hands it to the engine."""

from collections.abc import Callable

import pytest

from tests.runtime.server.conftest import Served

MODEL = """
import os

class Model:
    def predict(self, inputs):
        return os.environ.get("TRTPACK_ENGINE_SOURCE")
"""


@pytest.mark.parametrize("given", [None, "hf://me/other"])
def test_the_source_is_told_unless_the_environment_names_another(
    start: Callable[..., Served], given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRTPACK_ENGINE_SOURCE", raising=False)
    if given:
        monkeypatch.setenv("TRTPACK_ENGINE_SOURCE", given)
    served = start(MODEL, "engine: {source: 'oci://localhost/m:1'}").connect().ready()
    assert served.predict({}).json() == (given or "oci://localhost/m:1")
