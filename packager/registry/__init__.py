"""Putting engines and images where clusters and people can pull them."""
