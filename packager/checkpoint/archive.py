"""A checkpoint folder in a tar archive, compressed or not."""

import tarfile
import zlib
from collections.abc import Iterator
from fnmatch import fnmatch
from lzma import LZMAError
from pathlib import Path, PurePosixPath

from packager import progress
from packager.checkpoint.folder import CONFIGS, WANTED
from packager.errors import TrtpackError

_CHUNK = 8 << 20  # bytes


def is_archive(path: Path) -> bool:
    return tarfile.is_tarfile(path)


def unpack(path: Path, folder: Path, shown: str) -> None:
    """Writes the files of the outermost folder that holds one of CONFIGS to the new folder `folder`, and no others.

    A member's name decides nothing but the name of its file, and only plain files are read. Raises TrtpackError.
    """
    try:
        with tarfile.open(path) as tar:
            plain = [member for member in tar if member.isreg()]
            homes = [home for name, home in map(_place, plain) if name in CONFIGS]
            if not homes:
                raise TrtpackError(f"{shown} holds no config.json", "Pack the folder that save_pretrained writes.")
            home = min(homes, key=lambda home: len(home.parts))
            wanted = [m for m in plain if _place(m)[1] == home and any(fnmatch(_place(m)[0], p) for p in WANTED)]
            folder.mkdir()
            with progress.task(f"Unpacking {shown}", sum(member.size for member in wanted)) as advance:
                for member in wanted:
                    with (folder / _place(member)[0]).open("wb") as out:
                        for chunk in _chunks(tar, member):
                            out.write(chunk)
                            advance(len(chunk))
    except (tarfile.TarError, zlib.error, LZMAError, EOFError) as error:
        raise TrtpackError(f"{shown} is a damaged archive: {error}", "Pack and upload it again.") from error


def _place(member: tarfile.TarInfo) -> tuple[str, PurePosixPath]:
    path = PurePosixPath(member.name)
    return path.name, path.parent


def _chunks(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    file = tar.extractfile(member)
    while file and (chunk := file.read(_CHUNK)):
        yield chunk
