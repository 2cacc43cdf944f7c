"""The build context: everything `docker build` needs, in one folder, the same bytes for the same package."""

import os
import shutil
from pathlib import Path

from packager import swap
from packager.config import PackageConfig
from packager.errors import ConfigError, TrtpackError
from packager.image import engine as engines
from packager.image.dockerfile import MARKER, dockerfile, dockerignore
from packager.image.redact import redact
from packager.image.requirements import requirements, user_requirements
from packager.model import SUPPLIED, model_file
from runtime.engine.manifest import DRAFT_FOLDER, FILE_NAME, Manifest, read

RUNTIME = Path(__file__).parents[2] / "runtime"
_UNWANTED = shutil.ignore_patterns("__pycache__", "*.pyc", ".git", ".DS_Store")
_WHAT = "a build context"
_OURS = {"runtime", "engine", "config.yaml"}


def write_context(package: Path, config: PackageConfig, out: Path, *, base_image: str | None = None) -> None:
    """Writes the folder `out`, all of it or nothing; the engine's files are hard links where the disk allows it.

    Raises EngineError or TrtpackError for an engine that is missing, damaged or stale, and for an `out` that is not
    a build context; ConfigError for a config that no image can be built from.
    """
    manifest = engines.checked(package, config)
    folders = package_folders(package, config)
    texts = {
        "Dockerfile": dockerfile(config, folders, base_image=base_image),
        ".dockerignore": dockerignore(),
        MARKER: "",
        "requirements.txt": requirements(config, manifest),
        "config.yaml": redact((package / "config.yaml").read_text(encoding="utf-8")),
    }
    if config.requirements_file:
        texts["requirements.user.txt"] = user_requirements(package, config.requirements_file)
    _check_out(package, folders, out)
    try:
        with swap.replaced(out, MARKER, _WHAT) as context:
            for name, text in texts.items():
                (context / name).write_text(text, encoding="utf-8")
            _copy_tree(RUNTIME, context / "runtime")
            for folder in folders:
                _copy_folder(package, config, folder, context / folder)
            if model_file(package, config) == SUPPLIED:
                _copy_supplied(context / config.model_module_dir)
            if manifest:
                _link_engine(package / "engine", manifest, context / "engine")
            _open_to_all(context)
    except OSError as error:
        raise TrtpackError(f"cannot write {out}: {error}") from error


def package_folders(package: Path, config: PackageConfig) -> tuple[str, ...]:
    """The package's own folders that go into the image, in layer order. Raises ConfigError."""
    model_file(package, config)
    bundled = config.bundled_packages_dir
    present = [config.data_dir] if (package / config.data_dir).is_dir() else []
    if (package / bundled).is_dir() or config.external_package_dirs:
        present.append(bundled)
    for external in config.external_package_dirs:
        if not (package / external).is_dir():
            raise ConfigError(f"external_package_dirs: {package / external} is no folder")
    folders = tuple(Path(folder).as_posix() for folder in (*present, config.model_module_dir))
    for folder in folders:
        if folder == "." or folder.partition("/")[0] in _OURS:
            raise ConfigError(f"a package folder cannot be called {folder!r}: the image has that name for its own")
    _check_layers(package, config, folders)
    return folders


def _check_layers(package: Path, config: PackageConfig, folders: tuple[str, ...]) -> None:
    layers = config.engine.layers if config.engine else None
    if layers is None:
        return
    if not (package / layers).is_file():
        raise ConfigError(f"engine.layers: {package / layers} does not exist")
    if not any(Path(layers).is_relative_to(folder) for folder in folders):
        raise ConfigError(
            f"engine.layers: {layers} lies in no folder that goes into the image ({', '.join(folders)})",
            f"Move it into {folders[-1]}/.",
        )


def _copy_folder(package: Path, config: PackageConfig, folder: str, target: Path) -> None:
    """One folder; that of bundled packages takes the external ones in, as in Truss."""
    sources = [package / folder]
    if folder == Path(config.bundled_packages_dir).as_posix():
        sources += [package / external for external in config.external_package_dirs]
    for source in filter(Path.is_dir, sources):
        _copy_tree(source, target)


def _copy_supplied(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    shutil.copyfile(SUPPLIED, folder / SUPPLIED.name)


def _copy_tree(source: Path, target: Path) -> None:
    """Follows links: what they point at is not in the context."""
    shutil.copytree(source, target, ignore=_UNWANTED, dirs_exist_ok=True)


def _link_engine(engine: Path, manifest: Manifest, target: Path) -> None:
    on_gpu = manifest.backend.name != "torch"
    needed = [name for name, file in manifest.files.items() if not (on_gpu and file.optional)]
    for name in (FILE_NAME, *needed):
        source, link = engine / name, target / name
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            if not source.stat().st_mode & 0o004:
                raise PermissionError
            os.link(source, link)
        except OSError:
            shutil.copy2(source, link)
    if manifest.has_draft:
        draft = engine / DRAFT_FOLDER
        _link_engine(draft, read(draft), target / DRAFT_FOLDER)


def _open_to_all(context: Path) -> None:
    """Files keep their owner's modes in an image, and its user owns none of them."""
    for path in context.rglob("*"):
        mode = path.stat().st_mode & 0o777
        wanted = mode | (0o555 if path.is_dir() or mode & 0o100 else 0o444)
        if mode != wanted:
            path.chmod(wanted)


def _check_out(package: Path, folders: tuple[str, ...], out: Path) -> None:
    swap.check_replaceable(out, MARKER, _WHAT)
    for folder in (*folders, "engine"):
        if out.resolve().is_relative_to((package / folder).resolve()):
            raise TrtpackError(f"{out} lies in {package / folder}, which goes into the image", "Name another folder.")
