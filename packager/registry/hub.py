"""An engine pushed to the Hugging Face Hub: runtime.registry.hub says how a repository holds engines.

All of a push is one commit, made once every large file is uploaded: until then nobody sees any of it. What an
interrupted push has uploaded is not sent again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from packager import progress
from packager.errors import TrtpackError
from packager.registry import card, content
from runtime import hub
from runtime.engine import manifest as manifests
from runtime.engine.manifest import FILE_NAME, Manifest
from runtime.hub import HubError, Source
from runtime.registry import artifact, oci
from runtime.registry.hub import INDEX, folder_of, read_index, read_manifest
from runtime.registry.oci import Descriptor, ImageIndex

_Content = Path | bytes
_Engine = tuple[Descriptor, Manifest]
# What the Hub answers to a commit whose parent is no longer the branch's last one, as huggingface_hub's own tests of
# create_commit expect.
_CHANGED_MEANWHILE = 412
_AGAIN = "Push again: what has arrived is not sent again."


@dataclass(frozen=True)
class _There:
    """What the repository holds at `source`, a commit: the paths of its files, and its engines with their entries."""

    source: Source
    paths: frozenset[str]
    engines: Sequence[_Engine]
    card: str


def push(engine: Path, repo: str, *, revision: str | None = None, private: bool = True) -> str:
    """Adds the engine's GPUs to the repository hf://ORG/NAME; engines that it holds for other GPUs stay.

    The repository is made where there is none; `private` says how, and changes nothing of one that is there.
    `revision` is a branch. Returns hf://ORG/NAME@COMMIT. Raises EngineError for a damaged engine, TrtpackError for
    what the Hub refuses, and for a repository with engines of another model.
    """
    target, manifest = _target(repo, revision), manifests.read(engine)
    contents, engines = _contents(engine, manifest)
    api = HfApi(endpoint=hub.endpoint(), library_name="trtpack")
    with _told(target):
        there = _open(api, target, private)
        engines = _merged(target, there, engines)
        contents[INDEX] = _index(entry for entry, _ in engines)
        if "README.md" in there.paths and card.MARKER not in there.card:
            progress.note(f"note: {target} has a README.md that trtpack did not write; it stays as it is")
        else:
            contents["README.md"] = card.render(target, engines).encode()
        with _shown(f"Pushing to {target}"):
            commit = _commit(api, there, target, contents, f"Add the engine for {_gpus(manifest)}")
    return str(Source(target.repo, commit))


def _target(repo: str, revision: str | None) -> Source:
    named = Source.parse(repo if repo.startswith(hub.SCHEME) else f"{hub.SCHEME}{repo}")
    if named is None:
        raise TrtpackError(f"{repo} names no repository of the Hub", "Write it as hf://ORG/NAME.")
    return Source(named.repo, revision or named.revision)


def _open(api: HfApi, target: Source, private: bool) -> _There:
    api.create_repo(target.repo, private=private, exist_ok=True)
    info = api.repo_info(target.repo, revision=target.revision)
    if bool(info.private) != private:
        progress.note(f"note: {target} is {'private' if info.private else 'public'} already, and stays so")
    source = Source(target.repo, info.sha)
    paths = frozenset(api.list_repo_files(target.repo, revision=info.sha))
    with TemporaryDirectory() as folder:
        store, engines = Path(folder), []
        if INDEX in paths:
            index, _ = read_index(source, store)
            engines = [(entry, read_manifest(source, entry, store)) for entry in index.manifests]
        readme = ""
        if "README.md" in paths:
            found = api.hf_hub_download(target.repo, "README.md", revision=info.sha, cache_dir=store)
            readme = Path(found).read_text(encoding="utf-8")
    return _There(source, paths, engines, readme)


def _contents(engine: Path, manifest: Manifest) -> tuple[dict[str, _Content], list[_Engine]]:
    """The engine taken apart by GPU: files by path in the repository, and the entry of each GPU."""
    contents: dict[str, _Content] = {}
    engines = []
    for variant in content.variants(engine, manifest):
        entry = oci.described(variant.config, artifact.CONFIG, dict(variant.annotations))
        folder = folder_of(entry)
        contents[f"{folder}/{FILE_NAME}"] = variant.config
        for layer in variant.layers:  # of a large file there are several
            contents[f"{folder}/{artifact.said(layer.descriptor, oci.TITLE)}"] = layer.source
        engines.append((entry, variant.engine))
    return contents, engines


def _merged(target: Source, there: _There, engines: Sequence[_Engine]) -> list[_Engine]:
    """Those that are there, with these in the place of the same GPU's, ordered by name."""
    ours = engines[0][1].model
    for entry, other in there.engines:
        if (other.model.source, other.model.revision) != (ours.source, ours.revision):
            raise TrtpackError(
                f"{target} holds an engine of {_model(other)} for {folder_of(entry)}, and this one is of "
                f"{_model(engines[0][1])}",
                "Push it to a repository of its own.",
            )
    merged = {folder_of(engine[0]): engine for engine in (*there.engines, *engines)}
    return [merged[name] for name in sorted(merged)]


def _model(manifest: Manifest) -> str:
    model = manifest.model
    return f"{model.source} at {model.revision}" if model.revision else model.source


def _index(entries: Iterator[Descriptor]) -> bytes:
    return ImageIndex(artifact_type=artifact.ARTIFACT, manifests=tuple(entries)).dump()


def _commit(api: HfApi, there: _There, target: Source, contents: dict[str, _Content], message: str) -> str:
    """One commit on top of what was there, which the Hub refuses where another came first."""
    adding = {name: CommitOperationAdd(name, source) for name, source in contents.items()}
    folders = tuple({f"{name.partition('/')[0]}/" for name in contents if "/" in name})
    stale = [name for name in there.paths if name.startswith(folders) and name not in contents]
    # GPUs have the same weights, and one batch of uploads would send a file for each path.
    first = {source: adding[name] for name, source in contents.items()}
    try:
        api.preupload_lfs_files(target.repo, first.values(), revision=target.revision, free_memory=False)
        return api.create_commit(
            target.repo,
            [*adding.values(), *(CommitOperationDelete(name) for name in sorted(stale))],
            commit_message=message,
            revision=target.revision,
            parent_commit=there.source.revision,
        ).oid
    except HfHubHTTPError as error:
        if error.response.status_code != _CHANGED_MEANWHILE:
            raise
        raise TrtpackError(f"somebody else has pushed to {target} meanwhile", _AGAIN) from error
    except RuntimeError as error:  # as the library tells of an upload that failed
        raise TrtpackError(f"{target}: the upload broke off: {error.__cause__ or error}", _AGAIN) from error


@contextmanager
def _told(target: Source) -> Iterator[None]:
    try:
        with hub.explained(target):
            yield
    except HubError as error:
        raise TrtpackError(error.message, error.mend) from error


@contextmanager
def _shown(title: str) -> Iterator[None]:
    """The library's own bars on a terminal; elsewhere a line when it is done."""
    if progress.console.is_terminal or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        with progress.task(title):
            yield
    finally:
        enable_progress_bars()


def _gpus(manifest: Manifest) -> str:
    return ", ".join(target.gpu for target in manifest.targets) or "any GPU"
