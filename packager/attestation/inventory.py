"""Whose each file of an image is. What is nobody's is said to be: it is what a reader of the SBOM would miss."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from packager.attestation import dpkg, engine, python
from packager.attestation.dpkg import System
from packager.attestation.engine import DRAFT, Engine
from packager.attestation.generated import is_generated
from packager.attestation.python import Distribution, Interpreter
from packager.attestation.tree import File, Tree
from runtime.engine.manifest import FILE_NAME

ENGINE = "engine"


@dataclass(frozen=True)
class Inventory:
    """`own` are the files of the model package and the runtime, `inherited` those that are nobody's and the same in the
    base image, both by path; `engine` is the one that the image brings."""

    system: System
    distributions: tuple[Distribution, ...]
    interpreters: tuple[Interpreter, ...]
    engine: Engine | None
    own: Mapping[str, File]
    inherited: Mapping[str, File]
    unaccounted: tuple[str, ...]


def take(tree: Tree, folders: Sequence[str], base: Tree | None = None) -> Inventory:
    """`folders` are those that the image works in, the one with the package first; `base` is what it was built on.

    A file is a package's by the package's own record and digest; the engine's by engine.json; else, in `folders`, or
    where links in them lead, and outside of virtual environments, the model package's own; else the system's by place;
    else the base image's, if it has the same content there. Raises EngineError for an engine.json that is not valid.
    """
    system = dpkg.system(tree)
    taken = dpkg.owned(tree, system)
    distributions = python.distributions(tree, taken)
    for distribution in distributions:
        taken |= set(python.owned(tree, distribution))
    interpreters = python.interpreters(tree, taken)
    taken |= {path for path in tree.files if any(python.is_interpreter(path, one) for one in interpreters)}
    taken |= set(python.bytecode(tree, taken))
    venvs = python.venvs(tree)
    taken |= {path for path in tree.files if any(python.is_scaffold(path, folder) for folder in venvs)}
    found, engine_folders = _engine(tree, folders)
    taken |= _right(tree, found, engine_folders)

    own: dict[str, File] = {}
    inherited: dict[str, File] = {}
    unaccounted: list[str] = []
    roots = tree.reach(folders)
    for path, file in sorted((path, file) for path, file in tree.files.items() if path not in taken):
        if _lies(path, roots) and not path.startswith((*venvs, *_slashed(engine_folders))):
            own[path] = file
        elif is_generated(path, file):
            continue
        elif base and base.files.get(path) == file:
            inherited[path] = file
        else:
            unaccounted.append(path)
    return Inventory(system, tuple(distributions), tuple(interpreters), found, own, inherited, tuple(unaccounted))


def _engine(tree: Tree, folders: Sequence[str]) -> tuple[Engine | None, tuple[str, ...]]:
    """It, and the folders that are its alone."""
    where = f"{folders[0].strip('/')}/{ENGINE}" if folders else ENGINE
    found = engine.in_tree(tree, where)
    return found, tree.reach([where]) if found else ()


def _right(tree: Tree, found: Engine | None, folders: tuple[str, ...]) -> set[str]:
    """The engine's files that are what engine.json says, engine.json itself, and links between its folders."""
    if found is None:
        return set()
    said = found.recorded() | {name: found.files[name] for name in (FILE_NAME, DRAFT) if name in found.files}
    digests = set(said.items())
    links = {path for path, file in tree.files.items() if file.link is not None and _lies(path, folders)}
    return links | {
        tree.resolve(f"{folders[0]}/{name}") for name, digest in found.files.items() if (name, digest) in digests
    }


def _lies(path: str, folders: Iterable[str]) -> bool:
    return path.startswith(_slashed(folders))


def _slashed(folders: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{folder}/" for folder in folders)
