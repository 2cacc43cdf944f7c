"""Where things lie in the image: what changes at its own pace is a folder of the root, and a layer, of its own.

A builder writes the time of the build into every folder that it adds to; into a new one it copies the source's. So
each layer is one new folder of the root, and what serving expects beneath /app is linked to from there.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from packager.config import PackageConfig
from packager.errors import ConfigError
from packager.model import model_file

CODE, WEIGHTS, ENGINE, DATA, PACKAGES, APP = "trtpack", "weights", "engine", "data", "packages", "app"
_OURS = {"runtime", ENGINE, "config.yaml"}


@dataclass(frozen=True)
class Layout:
    """`folders` are the package's own, relative to it, none inside another; `homes` says of some which layer they are.

    `layers` are the image's, in the order of how seldom they change.
    """

    model: str
    folders: tuple[str, ...]
    homes: Mapping[str, str]
    layers: tuple[str, ...]

    def place(self, path: str) -> str:
        """Where a file or folder of the package lies, relative to the image's root."""
        for folder, home in self.homes.items():
            if PurePosixPath(path).is_relative_to(folder):
                return (home / PurePosixPath(path).relative_to(folder)).as_posix()
        return f"{APP}/{path}"

    def image(self, path: str) -> str:
        """The same, relative to the build context."""
        return f"image/{self.place(path)}"

    @property
    def links(self) -> dict[str, str]:
        """Links beneath the image's root, each with what it points at, relative to where it lies."""
        wanted = {f"{APP}/{folder}": home for folder, home in self.homes.items()}
        if ENGINE in self.layers:
            wanted[f"{APP}/{ENGINE}"] = ENGINE
        return {link: os.path.relpath(home, PurePosixPath(link).parent) for link, home in wanted.items()}


def layout(package: Path, config: PackageConfig, *, compiler: bool = False) -> Layout:
    """`compiler`: of the image that compiles the engine, and so holds none. Raises ConfigError."""
    model_file(package, config)
    data, bundled = (PurePosixPath(name).as_posix() for name in (config.data_dir, config.bundled_packages_dir))
    model = PurePosixPath(config.model_module_dir).as_posix()
    present = [data] if (package / data).is_dir() or config.external_data else []
    if (package / bundled).is_dir() or config.external_package_dirs:
        present.append(bundled)
    for external in config.external_package_dirs:
        if not (package / external).is_dir():
            raise ConfigError(f"external_package_dirs: {package / external} is no folder")
    for folder in (*present, model):
        if folder == "." or folder.partition("/")[0] in _OURS:
            raise ConfigError(f"a package folder cannot be called {folder!r}: the image has that name for its own")
    _check_layers(package, config, (*present, model))
    folders = _outermost(*present, model)
    homes = {folder: home for folder, home in ((data, DATA), (bundled, PACKAGES)) if folder in folders}
    engine = (WEIGHTS, ENGINE) if config.engine and not (config.engine.source or compiler) else ()
    return Layout(model, folders, homes, (CODE, *engine, *homes.values(), APP))


def _outermost(*folders: str) -> tuple[str, ...]:
    """Without those that come along with another."""
    paths = [PurePosixPath(folder) for folder in dict.fromkeys(folders)]
    return tuple(str(path) for path in paths if not any(path != p and path.is_relative_to(p) for p in paths))


def _check_layers(package: Path, config: PackageConfig, folders: tuple[str, ...]) -> None:
    layers = config.engine.layers if config.engine else None
    if layers is None:
        return
    if not (package / layers).is_file():
        raise ConfigError(f"engine.layers: {package / layers} does not exist")
    if not any(PurePosixPath(layers).is_relative_to(folder) for folder in folders):
        raise ConfigError(
            f"engine.layers: {layers} lies in no folder that goes into the image ({', '.join(folders)})",
            f"Move it into {folders[-1]}/.",
        )
