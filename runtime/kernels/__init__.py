"""Attention over the paged KV cache, for each kind of device."""
