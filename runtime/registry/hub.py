"""From a repository on the Hugging Face Hub to an engine's folder on this machine: the one for its GPU, checked.

Such a repository has a folder for each GPU, with the engine's files as they are, and INDEX: the index of an OCI
artifact (see runtime.registry.artifact), whose entries name each folder's engine.json by its digest.
"""

import re
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from runtime import hub
from runtime.engine import manifest as manifests
from runtime.engine import runtime_cache
from runtime.engine.device import Device
from runtime.engine.manifest import DRAFT_FOLDER, FILE_NAME, Manifest
from runtime.errors import RegistryError
from runtime.hub import NoFileError, Snapshot, Source
from runtime.registry import artifact, oci
from runtime.registry.oci import Descriptor, ImageIndex
from runtime.registry.pull import Progress, Pulled

INDEX = "index.json"
# The folder of an engine that runs on any GPU.
ANY = "any-gpu"
_FOLDER = re.compile(r"[a-z0-9][a-z0-9.-]*")


def pull(
    source: str,
    device: Device | None,
    gpu: str | None = None,
    *,
    cache: Path | None = None,
    progress: Progress = lambda total: lambda count: None,
) -> Pulled:
    """The engine for `gpu`, a name of the GPU table, or for `device`; without both with all that a CPU needs.

    `source` is hf://ORG/NAME[@REVISION]. What is pulled lies in `cache`, by default $TRTPACK_CACHE_DIR, and is taken
    from there where the Hub cannot be reached; a file that broke off is resumed. Raises RegistryError.
    """
    named = Source.parse(source)
    if named is None:
        raise RegistryError(f"{source} is not on the Hub: write it as hf://ORG/NAME or hf://ORG/NAME@REVISION")
    store = (cache or runtime_cache.folder()) / "hub"
    try:
        index, commit = read_index(named, store)
        entry = artifact.choose(source, index.manifests, device, gpu)
        pinned = Source(named.repo, commit)
        manifest = read_manifest(pinned, entry, store)
        folder = _download(pinned, entry, manifest, store, progress, whole=device is None and gpu is None)
    except OSError as error:
        raise RegistryError(f"cannot write {store}: {error.strerror or error}") from error
    _check(pinned, folder, manifest)
    return Pulled(str(pinned), folder)


def read_index(source: Source, store: Path) -> tuple[ImageIndex, str]:
    """What engines there are, and the commit that the revision names now. Raises RegistryError."""
    try:
        path = hub.fetch(source, INDEX, store)
        index = ImageIndex.model_validate_json(path.read_bytes())
    except (NoFileError, ValidationError) as error:
        raise _no_engine(source) from error
    if index.artifact_type != artifact.ARTIFACT or not all(map(_is_safe, index.manifests)):
        raise _no_engine(source)
    return index, path.parent.name  # the cache keeps each commit in snapshots/COMMIT/


def read_manifest(source: Source, entry: Descriptor, store: Path) -> Manifest:
    """The engine.json that `entry` names. Raises RegistryError where it is another, EngineError where it is none."""
    path = hub.fetch(source, f"{folder_of(entry)}/{FILE_NAME}", store)
    if oci.digest_of(path.read_bytes()) != entry.digest:
        raise _damaged(source, path, f"{folder_of(entry)}/{FILE_NAME}")
    return manifests.read(path.parent)


def folder_of(entry: Descriptor) -> str:
    """Where in the repository that engine lies: such as "nvidia-l4"."""
    return artifact.said(entry, artifact.GPU) or ANY


def _download(
    source: Source, entry: Descriptor, manifest: Manifest, store: Path, progress: Progress, *, whole: bool
) -> Path:
    """The engine's folder; without the files that a CPU alone reads, unless it is to be `whole`."""
    name = folder_of(entry)
    unwanted = [] if whole else [f"{name}/{path}" for path, file in manifest.files.items() if file.optional]
    snapshot = Snapshot(source, [f"{name}/*"], unwanted, store)
    missing = snapshot.missing()
    here = _Counted(progress(missing)) if missing else _Counted()
    folder = snapshot.fetch(here) / name
    here(missing - here.total)  # files with the same content come once
    return folder


def _check(source: Source, folder: Path, manifest: Manifest) -> None:
    """Every file against engine.json. Raises RegistryError."""
    for name in manifest.files:
        if manifests.problem(folder, manifest, name):
            raise _damaged(source, folder / name, f"{folder.name}/{name}")
    if manifest.has_draft:
        draft = folder / DRAFT_FOLDER
        _check(source, draft, manifests.read(draft))


def _damaged(source: Source, path: Path, name: str) -> RegistryError:
    """Forgets the file as well: the cache takes what it has for whole, and would give it again."""
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    return RegistryError(
        f"{source} is damaged: {name} is not what was pushed; pull it again, and if that does not help push it again"
    )


class _Counted:
    """Passes bytes on, and keeps their sum."""

    def __init__(self, advance: Callable[[int], object] = lambda count: None) -> None:
        self.total, self._advance = 0, advance

    def __call__(self, count: int) -> None:
        self.total += count
        self._advance(count)


def _is_safe(entry: Descriptor) -> bool:
    return _FOLDER.fullmatch(folder_of(entry)) is not None


def _no_engine(source: Source) -> RegistryError:
    return RegistryError(f"{source} holds no engine: name a repository that trtpack push --engine wrote")
