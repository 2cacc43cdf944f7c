import gzip
import hashlib
import io
import tarfile

import pytest

from packager.attestation import tree as trees
from tests.packager.attestation.tars import tar, tree


def test_each_file_has_the_digest_of_its_content() -> None:
    found = tree({"app": None, "app/config.yaml": "a: 1\n", "app/copy": "= app/config.yaml", "bin": "-> usr/bin"})
    digest = hashlib.sha256(b"a: 1\n").hexdigest()
    assert {path: file.sha256 for path, file in found.files.items()} == {
        "app/config.yaml": digest,
        "app/copy": digest,
        "bin": "",
    }
    assert found.files["bin"].link == "usr/bin"
    assert found.files["app/config.yaml"].size == 5


def test_it_keeps_in_memory_what_packages_say_of_themselves_and_nothing_else() -> None:
    found = tree(
        {"var/lib/dpkg/status": "Package: a\n", "app/weights.bin": b"1" * 100, "v/x.dist-info/RECORD": "x.py,,\n"}
    )
    assert found.text("var/lib/dpkg/status") == "Package: a\n"
    assert set(found.texts) == {"var/lib/dpkg/status", "v/x.dist-info/RECORD"}
    assert found.text("app/weights.bin") == ""


def test_what_a_container_engine_puts_over_an_image_is_not_the_images() -> None:
    found = tree({".dockerenv": "", "etc/hosts": "", "etc/resolv.conf": "", "dev/console": "", "etc/passwd": "root\n"})
    assert set(found.files) == {"etc/passwd"}


@pytest.mark.parametrize(
    ("path", "real"),
    [
        ("lib/x/libc.so", "usr/lib/x/libc.so"),
        ("opt/now/lib/a", "srv/one/lib/a"),
        ("usr/lib/a", "usr/lib/a"),
        ("loop/a", "loop/a"),
    ],
)
def test_folders_that_are_links_are_followed(path: str, real: str) -> None:
    found = tree({"lib": "-> usr/lib", "opt/now": "-> ../srv/now", "srv/now": "-> /srv/one", "loop": "-> loop"})
    assert found.resolve(path) == real


def test_links_lead_from_folder_to_folder() -> None:
    links = {"app/engine": "-> ../engine", "engine/weights": "-> /weights/own", "app/file": "-> ../etc/passwd"}
    found = tree({**links, "etc/passwd": "root"})
    assert set(found.reach(["/app"])) == {"app", "engine", "weights/own"}
    assert found.reach(["", "/"]) == ()


def test_a_compressed_tar_is_the_same_tree() -> None:
    packed = tar({"a": "1", "b/c": "2"})
    assert trees.read(io.BytesIO(gzip.compress(packed))) == trees.read(io.BytesIO(packed))


def test_what_is_no_tar_is_an_error() -> None:
    with pytest.raises(tarfile.TarError):
        trees.read(io.BytesIO(b"no tar at all" * 100))


def test_layers_hide_what_lies_below() -> None:
    below = tree({"a/1": "1", "a/2": "2", "b/1": "1", "b/2": "2", "c/1": "1", "d": "4", "e/1": "1"})
    above = tree({"a/.wh.1": "", "b/.wh..wh..opq": "", "b/3": "3", ".wh.c": "", "d": "new", "e": "-> a"})
    whole = trees.stack([below, above])
    assert sorted(whole.files) == ["a/2", "b/3", "d", "e"]
    assert whole.files["d"].sha256 == hashlib.sha256(b"new").hexdigest()


def test_a_layer_hides_what_packages_below_said_of_themselves() -> None:
    below = tree({"v/x.dist-info/METADATA": "Name: x\n", "v/y.dist-info/METADATA": "Name: y\n"})
    whole = trees.stack([below, tree({"v/.wh.x.dist-info": ""})])
    assert set(whole.texts) == {"v/y.dist-info/METADATA"}
