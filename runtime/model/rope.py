"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864) and the ways its range is extended."""

import math

import torch
from torch import Tensor

from runtime.model.config import RopeConfig


def tables(config: RopeConfig, head_dim: int, length: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine, each float32 [length, head_dim], for positions 0 … length-1.

    Both halves of a head hold the same angles (the "rotate half" convention of Hugging Face's models).
    """
    frequencies, scale = inverse_frequencies(config, head_dim)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos() * scale, angles.sin() * scale


def inverse_frequencies(config: RopeConfig, head_dim: int) -> tuple[Tensor, float]:
    """Float32 [head_dim / 2] inverse frequencies, and the factor that cosine and sine are multiplied by."""
    plain = 1.0 / config.theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)
    if config.type == "linear":
        return plain / config.factor, 1.0
    if config.type == "llama3":
        return _llama3(config, plain), 1.0
    if config.type == "yarn":
        return _yarn(config, plain, head_dim), _yarn_scale(config)
    return plain, 1.0


def apply(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates x [tokens, heads, head_dim] by the angles of cos and sin, each [tokens, head_dim]."""
    first, second = x.chunk(2, dim=-1)
    rotated = torch.cat((-second, first), dim=-1)
    return x * cos.unsqueeze(1) + rotated * sin.unsqueeze(1)


def _llama3(config: RopeConfig, plain: Tensor) -> Tensor:
    """Llama 3.1's scaling: long wavelengths divided by `factor`, short ones kept, a ramp between."""
    origin = _origin(config)
    wavelength = 2 * math.pi / plain
    ramp = (origin / wavelength - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor)
    blended = (1 - ramp) * plain / config.factor + ramp * plain
    scaled = torch.where(wavelength > origin / config.low_freq_factor, plain / config.factor, blended)
    return torch.where(wavelength < origin / config.high_freq_factor, plain, scaled)


def _yarn(config: RopeConfig, plain: Tensor, head_dim: int) -> Tensor:
    """YaRN's "NTK-by-parts" interpolation (Peng et al. 2023, arXiv:2309.00071, section 3.2)."""

    def dimension(rotations: float) -> float:
        return head_dim * math.log(_origin(config) / (rotations * 2 * math.pi)) / (2 * math.log(config.theta))

    low, high = dimension(config.beta_fast), dimension(config.beta_slow)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    width = (high - low) or 0.001  # equal bounds would divide by zero
    keep = 1 - ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    return plain / config.factor * (1 - keep) + plain * keep


def _yarn_scale(config: RopeConfig) -> float:
    """YaRN's attention temperature (section 3.4), with DeepSeek's `mscale` variant."""
    if config.attention_factor is not None:
        return config.attention_factor

    def scale(weight: float) -> float:
        return 1.0 if config.factor <= 1 else 0.1 * weight * math.log(config.factor) + 1.0

    if config.mscale and config.mscale_all_dim:
        return scale(config.mscale) / scale(config.mscale_all_dim)
    return scale(1.0)


def _origin(config: RopeConfig) -> int:
    if config.original_max_position_embeddings is None:
        raise ValueError(f"rope type {config.type} needs original_max_position_embeddings")
    return config.original_max_position_embeddings
