"""The build context: everything an image is built from, in one folder, the same bytes for the same package."""

import os
import shutil
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path

from packager import swap
from packager.config import PackageConfig
from packager.errors import ConfigError, TrtpackError
from packager.image import engine as engines
from packager.image import layout as layouts
from packager.image.dockerfile import EPOCH, MARKER, dockerfile, dockerignore, python_version
from packager.image.engine import Engine
from packager.image.labels import labels
from packager.image.layout import CODE, DATA, ENGINE, PACKAGES, WEIGHTS, Layout
from packager.image.lock import COMPILER, Wanted, locked
from packager.image.lock import FILE_NAME as LOCK
from packager.image.options import Options, platform
from packager.image.redact import redact
from packager.image.requirements import compiling, requirements, user_requirements
from packager.model import SUPPLIED, model_file
from runtime.engine import manifest, plan
from runtime.engine.manifest import Manifest

_HOUSE = Path(__file__).parents[2]
# What serves, and what compiles besides.
_SERVING, _COMPILING = ("runtime",), ("k8s", "model_template", "packager", "templates")
_UNWANTED = shutil.ignore_patterns("__pycache__", "*.pyc", ".git", ".DS_Store")
_WHAT = "a build context"


def write_context(package: Path, config: PackageConfig, out: Path, options: Options | None = None) -> None:
    """Writes the folder `out`, all of it or nothing; the engine's files are hard links where the disk allows it.

    In it are `build/`, what the build reads, and `image/`, what the image's root gets, a layer a folder. The package
    gets its lock (packager.image.lock). Raises EngineError or TrtpackError for an engine that is missing, damaged or
    stale, for an `out` that is not a build context, and for what locked() does; ConfigError for a config that no image
    can be built from.
    """
    options = options or Options()
    layout = layouts.layout(package, config, compiler=options.compiler)
    _check_out(package, layout, out)
    engine = None if options.compiler else engines.checked(package, config)
    found = labels(package, config, engine.manifest if engine else None, options)
    lock = _lock(package, config, engine, options)
    texts = {
        "Dockerfile": dockerfile(config, layout, found, options),
        ".dockerignore": dockerignore(),
        MARKER: "",
        layout.image("config.yaml"): redact((package / "config.yaml").read_text(encoding="utf-8")),
        f"build/{LOCK}": lock,
        f"image/{CODE}/{LOCK}": lock,  # provenance reads it in the image
    }
    try:
        with swap.replaced(out, MARKER, _WHAT) as context:
            for name, text in texts.items():
                _write(context / name, text)
            _copy_code(context / "image" / CODE, options)
            _copy_package(package, config, layout, context)
            if engine:
                _link_engine(engine, context / "image")
            _copy_build_files(options, context / "build")
            for link, target in layout.links.items():
                _link(context / "image" / link, target)
            _settle(context)
    except OSError as error:
        raise TrtpackError(f"cannot write {out}: {error}") from error


def printed(package: Path, config: PackageConfig, options: Options) -> str:
    """The Dockerfile that write_context would write, should the engine be there by then; writes nothing."""
    compiled = (package / ENGINE / manifest.FILE_NAME).is_file() and not options.compiler
    engine = engines.find(package, config) if compiled else None
    found = labels(package, config, engine.manifest if engine else None, options)
    return dockerfile(config, layouts.layout(package, config, compiler=options.compiler), found, options)


def _lock(package: Path, config: PackageConfig, engine: Engine | None, options: Options) -> str:
    """Of the compiler, the releases that serve the same package: an engine is run by those that compiled it.

    Where the server's follow from an engine, there is nothing yet to keep to: they will follow from this one.
    """
    serving = _wanted(package, config, options, requirements(config, engine.manifest if engine else None))
    if not options.compiler:
        return locked(package, serving, wheels=options.wheels, upgrade=options.upgrade)
    held = locked(package, serving, wheels=options.wheels) if config.engine and config.engine.source else ""
    wanted = replace(
        _wanted(package, config, options, compiling(config)), name=COMPILER, kept=held, build="trtpack build --compiler"
    )
    return locked(package, wanted, wheels=options.wheels, upgrade=options.upgrade)


def _wanted(package: Path, config: PackageConfig, options: Options, lines: str) -> Wanted:
    file = config.requirements_file
    theirs = user_requirements(package, file) if file else ""
    # Of a pyproject.toml the dependencies are taken; any other file uv reads itself, with what it includes.
    as_lines = file is not None and Path(file).name == "pyproject.toml"
    return Wanted(
        lines=lines + (theirs if as_lines else ""),
        python=python_version(config),
        platform=platform(config, options),
        cpu=config.resources.accelerator is None,
        file=None if as_lines else file,
        text="" if as_lines else theirs,
    )


def _copy_code(target: Path, options: Options) -> None:
    """The compiler's has our distribution's metadata, too, which says what version this is and what it needs."""
    for name in (*_SERVING, *(_COMPILING if options.compiler else ())):
        _copy_tree(_HOUSE / name, target / name)
    if options.compiler:
        ours = distribution("trtpack")
        _write(target / f"trtpack-{ours.version}.dist-info" / "METADATA", ours.read_text("METADATA") or "")


def _copy_package(package: Path, config: PackageConfig, layout: Layout, context: Path) -> None:
    """The package's folders; that of bundled packages takes the external ones in, as in Truss."""
    for name in layout.folders:
        if (package / name).is_dir():
            _copy_tree(package / name, context / layout.image(name))
    for external in config.external_package_dirs:
        _copy_tree(package / external, context / layout.image(config.bundled_packages_dir))
    for layer in {DATA, PACKAGES} & set(layout.layers):
        (context / "image" / layer).mkdir(exist_ok=True)
    if model_file(package, config) == SUPPLIED:
        folder = context / layout.image(layout.model)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SUPPLIED, folder / SUPPLIED.name)


def _copy_build_files(options: Options, build: Path) -> None:
    if options.ca_cert:
        if not options.ca_cert.is_file() or b"-----BEGIN CERTIFICATE-----" not in options.ca_cert.read_bytes():
            raise ConfigError(f"--ca-cert: {options.ca_cert} is no certificate in PEM format")
        shutil.copyfile(options.ca_cert, build / "ca.crt")
    if options.wheels:
        wheels = [path for path in sorted(options.wheels.iterdir()) if path.name.endswith((".whl", ".tar.gz"))]
        for wheel in wheels:
            _link_file(wheel, build / "wheels" / wheel.name)


def _copy_tree(source: Path, target: Path) -> None:
    """Follows links: what they point at is not in the context."""
    shutil.copytree(source, target, ignore=_UNWANTED, dirs_exist_ok=True)


def _link_engine(engine: Engine, image: Path) -> None:
    """Plans and engine.json in one layer, the rest in another, which a compile with other limits leaves as it was."""
    for part, its in engine.parts.items():
        _write(image / ENGINE / part / manifest.FILE_NAME, its.dump())
        for name in _needed(its):
            top = name.partition("/")[0]
            layer = ENGINE if top == plan.FOLDER else WEIGHTS
            _link_file(engine.folder / part / name, image / layer / part / name)
            link = image / ENGINE / part / top
            if layer == WEIGHTS and not link.is_symlink():
                _link(link, os.path.relpath(image / WEIGHTS / part / top, link.parent))


def _needed(its: Manifest) -> list[str]:
    on_gpu = its.backend.name != "torch"
    return [name for name, file in its.files.items() if not (on_gpu and file.optional)]


def _link(link: Path, target: str) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)


def _link_file(source: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        if not source.stat().st_mode & 0o004:
            raise PermissionError
        os.link(source, link)
    except OSError:
        shutil.copyfile(source, link)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _settle(context: Path) -> None:
    """One time for all, and modes that the image's user can read by: it owns none of the files.

    What has a second name is the user's own file, and stays as it is.
    """
    for path in context.rglob("*"):
        status = path.lstat()
        if path.is_symlink() or path.is_dir() or status.st_nlink == 1:
            mode = status.st_mode & 0o777
            wanted = mode | (0o555 if path.is_dir() or mode & 0o100 else 0o444)
            if mode != wanted and not path.is_symlink():
                path.chmod(wanted)
            os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)


def _check_out(package: Path, layout: Layout, out: Path) -> None:
    swap.check_replaceable(out, MARKER, _WHAT)
    for folder in (*layout.folders, ENGINE):
        if out.resolve().is_relative_to((package / folder).resolve()):
            raise TrtpackError(f"{out} lies in {package / folder}, which goes into the image", "Name another folder.")
