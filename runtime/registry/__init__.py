"""Engines in an OCI registry: how a container finds its own there, and the client that packager pushes with."""
