"""A linear layer whose input may be quantised."""

from typing import Any

from torch import Tensor, nn

from runtime.model.quantization import fake_quantize


class Linear(nn.Linear):
    """nn.Linear, until a state with `input_scale` and `input_zero_point` [] is loaded: see `fake_quantize`.

    Symmetric, so the zero point is zero; as in ONNX it is there for its type, which is the input's.
    """

    input_scale: Tensor | None
    input_zero_point: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.register_buffer("input_scale", None)
        self.register_buffer("input_zero_point", None)
        self.register_load_state_dict_pre_hook(_make_room)  # type: ignore[no-untyped-call]

    def forward(self, input: Tensor) -> Tensor:
        """[…, in] → […, out]."""
        if self.input_scale is not None and self.input_zero_point is not None:
            input = fake_quantize(input, self.input_scale, self.input_zero_point.dtype)
        return super().forward(input)


def _make_room(linear: Linear, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Buffers that are None are no part of a module's state: loading would refuse them."""
    for name in ("input_scale", "input_zero_point"):
        setattr(linear, name, state.get(prefix + name))
