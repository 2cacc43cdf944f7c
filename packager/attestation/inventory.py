"""Whose each file of an image is. What is nobody's is said to be: it is what a reader of the SBOM would miss."""

from collections.abc import Mapping
from dataclasses import dataclass

from packager.attestation import dpkg, engine, python
from packager.attestation.dpkg import System
from packager.attestation.engine import Engine
from packager.attestation.generated import is_generated
from packager.attestation.python import Distribution, Interpreter
from packager.attestation.tree import File, Tree
from runtime.engine.manifest import FILE_NAME

ENGINE = "engine"


@dataclass(frozen=True)
class Inventory:
    """`own` are the files in the image's working folder that came from the package, `inherited` those that are
    nobody's and the same in the base image, both by path; `engine` has its files in a folder of that name."""

    system: System
    distributions: tuple[Distribution, ...]
    interpreters: tuple[Interpreter, ...]
    engine: Engine | None
    own: Mapping[str, File]
    inherited: Mapping[str, File]
    unaccounted: tuple[str, ...]


def take(tree: Tree, workdir: str, base: Tree | None = None) -> Inventory:
    """`workdir` is the image's, where the package lies; `base` what the image was built on, where that is known.

    A file is a package's by the package's own record and digest; the engine's by engine.json; else, in `workdir` and
    outside of virtual environments, the model package's own; else the system's by place; else the base image's, if it
    has the same content there. Raises EngineError for an engine.json that is not valid.
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

    folder = workdir.strip("/")
    found = engine.in_tree(tree, f"{folder}/{ENGINE}") if folder else None
    own: dict[str, File] = {}
    inherited: dict[str, File] = {}
    unaccounted: list[str] = []
    engine_files = _right(found, f"{folder}/{ENGINE}/") if found else set()
    for path, file in sorted(tree.files.items()):
        if path in taken or path in engine_files:
            continue
        if found and path.startswith(f"{folder}/{ENGINE}/"):
            unaccounted.append(path)
        elif folder and path.startswith(f"{folder}/") and not path.startswith(tuple(venvs)):
            own[path] = file
        elif is_generated(path, file):
            continue
        elif base and base.files.get(path) == file:
            inherited[path] = file
        else:
            unaccounted.append(path)
    return Inventory(system, tuple(distributions), tuple(interpreters), found, own, inherited, tuple(unaccounted))


def _right(found: Engine, folder: str) -> set[str]:
    """The files that are what engine.json says, and engine.json itself."""
    said = found.recorded() | {name: found.files[name] for name in (FILE_NAME, engine.DRAFT) if name in found.files}
    return {f"{folder}{name}" for name, digest in said.items() if found.files[name] == digest}
