"""Which parameter of the user's methods receives what."""

import pytest
from fastapi import Request

from runtime.server.model import Method, Model
from runtime.server.package import PackageError


class Shapes:
    def none(self): ...
    def inputs(self, data): ...
    def both(self, data, request: Request): ...
    def swapped(self, request: Request, data): ...
    def request(self, asked: Request): ...
    def text(self, data, request: "Request"): ...
    def unknown(self, data: "Missing", request: "fastapi.Request"): ...  # noqa: F821
    def default(self, data=None, limit=3): ...
    def star(self, data, *rest, **options): ...


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("none", ()),
        ("inputs", ("inputs",)),
        ("both", ("inputs", "request")),
        ("swapped", ("request", "inputs")),
        ("request", ("request",)),
        ("text", ("inputs", "request")),
        ("unknown", ("inputs", "request")),
        ("default", ("inputs",)),
        ("star", ("inputs",)),
    ],
)
def test_roles(name, roles):
    assert Method.find(Shapes(), name).roles == roles


def test_two_inputs_are_refused_with_the_signature():
    class Two:
        def predict(self, first, second): ...

    with pytest.raises(
        PackageError, match=r"one parameter annotated fastapi\.Request, but is predict\(first, second\)"
    ):
        Model(Two(), 1)


def test_predict_is_required():
    with pytest.raises(PackageError, match="no predict method"):
        Model(object(), 1)
