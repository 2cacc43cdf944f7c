"""LoRA adapters (Hu et al., 2021) of an engine that runs PyTorch modules: chosen per request, several in one batch."""
