"""An engine in a registry, put there by plain client calls: what evidence is attached to, and checked of."""

from pathlib import Path

from runtime.engine import manifest as manifests
from runtime.engine import plan
from runtime.engine.manifest import Manifest
from runtime.registry import artifact, oci
from runtime.registry.client import Registry
from runtime.registry.oci import Descriptor, ImageIndex, ImageManifest


def push(registry: Registry, folder: Path) -> list[tuple[Descriptor, Manifest]]:
    """Writes the index of an engine at the reference's tag; returns each GPU's manifest with its engine.json."""
    whole = manifests.read(folder)
    variants = [plan.variant(whole, target) for target in whole.targets] or [whole]
    pushed = [(_variant(registry, folder, variant), variant) for variant in variants]
    index = ImageIndex(artifact_type=artifact.ARTIFACT).replacing(*(entry for entry, _ in pushed))
    registry.put_manifest(registry.reference.name, index.dump(), index.media_type)
    return pushed


def _variant(registry: Registry, folder: Path, variant: Manifest) -> Descriptor:
    config = variant.dump().encode()
    registry.put_small_blob(config)
    layers = []
    for name in sorted(variant.files):
        content = (folder / name).read_bytes()
        registry.put_small_blob(content)
        layers.append(oci.described(content, artifact.FILE, {oci.TITLE: name}))
    stored = ImageManifest(
        artifact_type=artifact.ARTIFACT, config=oci.described(config, artifact.CONFIG), layers=tuple(layers)
    )
    said = {}
    for target in variant.targets:
        said = {artifact.GPU: target.gpu, artifact.CAPABILITY: target.compute_capability}
    entry = oci.described(stored.dump(), stored.media_type, said)
    registry.put_manifest(entry.digest, stored.dump(), stored.media_type)
    return entry
