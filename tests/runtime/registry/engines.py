"""Engines as a registry holds them, made by hand: what a pull reads must not hang on what our push writes."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from runtime.registry import artifact, oci
from tests.runtime.registry.registry_stand_in import Web

FILES = {"weights/model-00001.safetensors": b"weights" * 1000, "tokenizer/tokenizer.json": b"{}"}


def put_engine(
    web: Web,
    gpus: Mapping[str, str],
    *,
    tag: str = "1",
    files: Mapping[str, bytes] = FILES,
    optional: tuple[str, ...] = (),
    pieces: int | None = None,
    **annotations: str,
) -> None:
    """One entry for each of `gpus`, name to compute capability, each with a plan of its own; "" is any GPU.

    `pieces` is what a file is cut to, in bytes.
    """
    entries = []
    for gpu, capability in gpus.items():
        own = {**files, "plans/middle.plan": f"plan for {gpu}".encode()}
        layers = [layer for name, content in own.items() for layer in _layers(web, name, content, pieces, optional)]
        config = json.dumps({"gpu": gpu}).encode()
        content = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": oci.MANIFEST,
                "config": {"mediaType": artifact.CONFIG, "digest": web.put(config), "size": len(config)},
                "layers": layers,
            }
        ).encode()
        said = {"trtpack.gpu": gpu, "trtpack.compute-capability": capability, **annotations}
        entries.append(
            {"mediaType": oci.MANIFEST, "digest": digest(content), "size": len(content), "annotations": said}
        )
        web.manifests[digest(content)] = (oci.MANIFEST, content)
    index = {"schemaVersion": 2, "mediaType": oci.INDEX, "artifactType": artifact.ARTIFACT, "manifests": entries}
    content = json.dumps(index).encode()
    web.manifests[tag] = web.manifests[digest(content)] = (oci.INDEX, content)


def _layers(web: Web, name: str, content: bytes, pieces: int | None, optional: tuple[str, ...]) -> list[dict[str, Any]]:
    size = pieces or max(len(content), 1)
    layers = []
    for offset in range(0, max(len(content), 1), size):
        said = {oci.TITLE: name} | ({artifact.OPTIONAL: "true"} if name in optional else {})
        if len(content) > size:
            said |= {artifact.WHOLE: digest(content), artifact.OFFSET: str(offset)}
        piece = content[offset : offset + size]
        layers.append({"mediaType": artifact.FILE, "digest": web.put(piece), "size": len(piece), "annotations": said})
    return layers


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
