"""What an engine is compiled for: tokens a sequence, sequences a batch, tokens a step."""

from packager.config.engine import EngineConfig
from packager.errors import ConfigError
from runtime.engine.manifest import Limits
from runtime.model.config import ModelConfig


def limits(source: str, model: ModelConfig, config: EngineConfig) -> Limits:
    """The config's own, with the model's context length for an absent one. Raises ConfigError for a longer one."""
    longest = model.max_position_embeddings
    wanted = config.max_model_len or longest
    if wanted > longest:
        raise ConfigError(
            f"engine.max_model_len is {wanted}, but {source} was trained for {longest} tokens",
            f"Set max_model_len to {longest} or less, or leave it out.",
        )
    return Limits(
        max_model_len=wanted,
        max_batch_size=config.max_batch_size,
        max_num_tokens=config.max_num_tokens,
        kv_cache_fraction=config.kv_cache_fraction,
    )
