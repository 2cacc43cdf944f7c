"""One GPU's answer: whether it runs the model, how many sequences at once, and how fast at best."""

from dataclasses import dataclass
from typing import Literal

from k8s.gpus import Gpu
from packager.compile.target import refusal
from packager.plan.memory import GB, Memory, memory
from packager.plan.roofline import Roofline
from packager.plan.subject import Subject


@dataclass(frozen=True)
class Speed:
    """Tokens a second by the roofline; None where the table has no rate for the arithmetic.

    `batch`: the largest sensible one, `limited_by` compute, beyond which it gains nothing, or by memory.
    """

    batch: int | None
    limited_by: Literal["compute", "memory"] | None
    decode_one: float
    decode_batch: float | None
    prefill: float | None


@dataclass(frozen=True)
class Estimate:
    """`refusal`: what the GPU cannot do; `misfit`: what it has no room for; `speed` where it runs the model."""

    gpu: Gpu
    memory: Memory
    refusal: str | None = None
    misfit: str | None = None
    speed: Speed | None = None


def estimate(gpu: Gpu, subject: Subject, context: int) -> Estimate:
    """Speeds are of sequences with `context` tokens, at most max_model_len."""
    found = memory(gpu, subject.model, subject.in_memory, subject.limits)
    quantization = subject.precision.quantization
    scheme = quantization.scheme if quantization else None
    if reason := refusal(gpu, subject.precision.dtype, scheme, subject.backend):
        return Estimate(gpu, found, refusal=reason)
    if not found.fits:
        return Estimate(gpu, found, misfit=_misfit(found))
    return Estimate(gpu, found, speed=_speed(Roofline(gpu, subject.model, subject.in_memory), found, context))


def _misfit(found: Memory) -> str:
    many = f"it would take the memory of {found.gpus} such GPUs"
    if found.left <= 0:
        return f"does not fit: weights of {found.weights / GB:,.1f} GB in {found.total / GB:,.0f} GB; {many}"
    return (
        f"does not fit: weights leave room for {found.tokens:,} tokens, and max_model_len is {found.longest:,}; "
        f"lower it, or {many}"
    )


def _speed(roofline: Roofline, found: Memory, context: int) -> Speed:
    one, prefill = roofline.decode(1, context), roofline.prefill(context)
    if not roofline.has_rate:
        return Speed(None, None, one, None, prefill)
    room, balance = found.sequences(context), roofline.balance(context)
    if balance is None or room < balance:
        return Speed(room, "memory", one, roofline.decode(room, context), prefill)
    return Speed(balance, "compute", one, roofline.decode(balance, context), prefill)
