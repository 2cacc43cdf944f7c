"""The HTTP server of a package: `python -m runtime.server --package DIR`."""
