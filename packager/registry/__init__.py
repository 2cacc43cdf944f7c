"""Images and engines, pushed to where clusters and people pull them."""
