import hashlib

from packager.attestation import dpkg
from tests.packager.attestation.tars import Files, tree

INFO = "var/lib/dpkg/info"
STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Source: glibc
Version: 2.36-9

Package: dash
Status: install ok installed
Architecture: amd64
Source: dash (0.5.12-2)
Version: 0.5.12-2+b1

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1
"""
SYSTEM: Files = {
    "etc/os-release": 'ID=debian\nVERSION_CODENAME="bookworm"\n',
    "lib": "-> usr/lib",
    "var/lib/dpkg/status": STATUS,
    f"{INFO}/libc6:amd64.list": "/.\n/lib\n/lib/libc.so.6\n/etc/libc.conf\n",
    f"{INFO}/libc6:amd64.md5sums": f"{hashlib.md5(b'libc').hexdigest()}  lib/libc.so.6\n",
    f"{INFO}/dash.list": "/bin/sh\n/etc/os-release\n/usr/share/doc/dash\n",
    f"{INFO}/gone.list": "/etc/gone.conf\n",
    "usr/lib/libc.so.6": "libc",
    "etc/libc.conf": "changed by hand",
    "bin/sh": "dash",
    "etc/gone.conf": "",
}


def test_what_is_installed_is_told_with_its_source() -> None:
    found = dpkg.system(tree(SYSTEM))
    assert (found.distribution, found.codename) == ("debian", "bookworm")
    assert [(one.name, one.version, one.source) for one in found.packages] == [
        ("dash", "0.5.12-2+b1", "dash@0.5.12-2"),
        ("libc6", "2.36-9", "glibc@2.36-9"),
    ]


def test_a_file_is_a_packages_where_it_is_listed_folders_that_are_links_followed() -> None:
    found = tree(SYSTEM)
    assert dpkg.owned(found, dpkg.system(found)) >= {"usr/lib/libc.so.6", "etc/libc.conf", "bin/sh"}
    assert "etc/gone.conf" not in dpkg.owned(found, dpkg.system(found))


def test_a_file_that_was_changed_is_not_the_packages() -> None:
    found = tree({**SYSTEM, "usr/lib/libc.so.6": "something else"})
    assert "usr/lib/libc.so.6" not in dpkg.owned(found, dpkg.system(found))


def test_a_file_that_was_diverted_is_the_packages_where_it_went() -> None:
    diverted = "/bin/sh\n/bin/sh.distrib\nlocal\n"
    found = tree({**SYSTEM, "var/lib/dpkg/diversions": diverted, "bin/sh": "local", "bin/sh.distrib": "dash"})
    owned = dpkg.owned(found, dpkg.system(found))
    assert "bin/sh.distrib" in owned
    assert "bin/sh" not in owned


def test_a_distroless_image_has_a_record_for_each_package() -> None:
    found = tree({"var/lib/dpkg/status.d/tzdata": "Package: tzdata\nVersion: 2026a\nArchitecture: all\n"})
    assert [(one.name, one.version) for one in dpkg.system(found).packages] == [("tzdata", "2026a")]


def test_an_image_without_debian_has_no_packages() -> None:
    assert dpkg.system(tree({"bin/busybox": "x"})).packages == ()
