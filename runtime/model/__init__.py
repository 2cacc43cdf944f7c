"""The model, cut into segments: the single source of truth for every backend."""
