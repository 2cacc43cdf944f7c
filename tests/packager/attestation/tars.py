"""Images in memory: a tar of the files that a test names."""

import io
import tarfile
from collections.abc import Mapping

from packager.attestation import tree as trees
from packager.attestation.tree import Tree

Files = Mapping[str, bytes | str | None]


def tar(files: Files) -> bytes:
    """Bytes are a file's content, "-> X" a symbolic link, "= X" a second name, None a folder, other text a file."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            data = b""
            if content is None:
                member.type = tarfile.DIRTYPE
            elif isinstance(content, str) and content.startswith("-> "):
                member.type, member.linkname = tarfile.SYMTYPE, content[3:]
            elif isinstance(content, str) and content.startswith("= "):
                member.type, member.linkname = tarfile.LNKTYPE, content[2:]
            else:
                data = content.encode() if isinstance(content, str) else content
                member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def tree(files: Files) -> Tree:
    return trees.read(io.BytesIO(tar(files)))
