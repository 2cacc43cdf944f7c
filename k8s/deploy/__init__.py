"""Rendered manifests on a cluster: looked at before, applied, followed until ready, removed.

It knows nothing of packages: documents in, what became of them out.
"""
