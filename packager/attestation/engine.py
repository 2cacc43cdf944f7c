"""An engine as its evidence names it: engine.json and the digest of every file, wherever the engine lies."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from packager import progress
from packager.attestation.tree import Tree
from runtime.engine import manifest as manifests
from runtime.engine.manifest import DRAFT_FOLDER, FILE_NAME, Manifest
from runtime.errors import EngineError
from runtime.registry import artifact, oci
from runtime.registry.client import Registry
from runtime.registry.oci import ImageManifest

DRAFT = f"{DRAFT_FOLDER}/{FILE_NAME}"


@dataclass(frozen=True)
class Engine:
    """`files`: sha256 in hex by path relative to the engine's folder, engine.json and a draft model's among them."""

    manifest: Manifest
    draft: Manifest | None
    files: Mapping[str, str]

    def recorded(self) -> dict[str, str]:
        """What engine.json, and the draft model's, say of the files that are here."""
        said = {name: file.sha256 for name, file in self.manifest.files.items()}
        for name, file in self.draft.files.items() if self.draft else ():
            said[f"{DRAFT_FOLDER}/{name}"] = file.sha256
        return {name: digest for name, digest in said.items() if name in self.files}

    def problems(self) -> list[str]:
        """How the files are not what engine.json says, each in a few words."""
        said, own = self.recorded(), {FILE_NAME, DRAFT}
        found = [
            f"{name} has sha256 {self.files[name]}, engine.json says {digest}"
            for name, digest in said.items()
            if self.files[name] != digest
        ]
        found += [f"{name} is in no engine.json" for name in self.files if name not in said and name not in own]
        needed = [name for name, file in self.manifest.files.items() if not file.optional and name not in self.files]
        if self.manifest.has_draft and self.draft is None:
            needed.append(DRAFT)
        return found + [f"{name} is missing" for name in needed]


def in_folder(folder: Path) -> Engine:
    """Reads every file of an engine on disk. Raises EngineError for a damaged one."""
    manifest = manifests.read(folder)
    draft = manifests.read(folder / DRAFT_FOLDER) if manifest.has_draft else None
    with progress.task("Checking the engine's files"):
        manifests.verify(folder, manifest)
        if draft:
            manifests.verify(folder / DRAFT_FOLDER, draft)
    own = [FILE_NAME, DRAFT] if draft else [FILE_NAME]
    files = {name: file.sha256 for name, file in manifest.files.items() if (folder / name).is_file()}
    for name, file in draft.files.items() if draft else ():
        if (folder / DRAFT_FOLDER / name).is_file():
            files[f"{DRAFT_FOLDER}/{name}"] = file.sha256
    return Engine(manifest, draft, files | {name: manifests.sha256(folder / name) for name in own})


def in_registry(registry: Registry, stored: ImageManifest) -> Engine:
    """What a registry has, by its own manifest `stored`.

    Raises RegistryError for what is not there, EngineError for an engine.json that is none.
    """
    layers = artifact.files(registry.reference, stored)
    manifest = _parsed(registry.small_blob(stored.config), str(registry.reference))
    draft = _parsed(registry.small_blob(layers[DRAFT].pieces[0]), DRAFT) if DRAFT in layers else None
    digests = {name: layer.digest for name, layer in layers.items()} | {FILE_NAME: stored.config.digest}
    return Engine(manifest, draft, {name: digest.removeprefix("sha256:") for name, digest in digests.items()})


def in_tree(tree: Tree, folder: str) -> Engine | None:
    """The files of an engine.json in that folder of an image; None where there is none. Raises EngineError."""
    own = tree.texts.get(tree.resolve(f"{folder}/{FILE_NAME}"))
    if own is None:
        return None
    manifest, guessing = _parsed(own, f"/{folder}"), tree.texts.get(tree.resolve(f"{folder}/{DRAFT}"))
    draft = _parsed(guessing, DRAFT) if guessing else None
    names = [*manifest.files, FILE_NAME]
    if draft:
        names += [DRAFT, *(f"{DRAFT_FOLDER}/{name}" for name in draft.files)]
    files = {name: tree.files.get(tree.resolve(f"{folder}/{name}")) for name in names}
    return Engine(manifest, draft, {name: file.sha256 for name, file in files.items() if file})


def _parsed(content: bytes, where: str) -> Manifest:
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise EngineError(
            f"the engine.json of {where} is not valid: {oci.reason(error)}; compile the engine again"
        ) from error
