import base64
import hashlib

import pytest

from packager.attestation import python
from tests.packager.attestation.tars import Files, tree

SITE = "opt/venv/lib/python3.11/site-packages"


def recorded(content: str) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
    return f"sha256={digest},{len(content)}"


def distribution(site: str, name: str, *lines: str, **files: str) -> Files:
    """One with a module of its name, and what else it says of itself."""
    body = f"# {name}\n"
    others = (f"{name}-1.0.dist-info/METADATA", f"{name}-1.0.dist-info/RECORD", f"../../../bin/{name}")
    record = "".join([f"{name}.py,{recorded(body)}\n", *(f"{other},,\n" for other in others)])
    metadata = "\n".join([f"Name: {name}", "Version: 1.0", *lines]) + "\n"
    return {
        f"{site}/{name}.py": body,
        f"{site}/{name}-1.0.dist-info/METADATA": metadata,
        f"{site}/{name}-1.0.dist-info/RECORD": record,
        f"opt/venv/bin/{name}": "#!python\n",
        **files,
    }


def test_a_distribution_owns_what_it_recorded() -> None:
    found = tree(distribution(SITE, "one"))
    (one,) = python.distributions(found, set())
    assert (one.name, one.version) == ("one", "1.0")
    info = {f"{SITE}/one-1.0.dist-info/{name}" for name in ("METADATA", "RECORD")}
    assert set(python.owned(found, one)) == {f"{SITE}/one.py", "opt/venv/bin/one", *info}


def test_what_was_changed_is_not_the_distributions() -> None:
    found = tree({**distribution(SITE, "one"), f"{SITE}/one.py": "import os\n"})
    assert f"{SITE}/one.py" not in set(python.owned(found, python.distributions(found, set())[0]))


def test_bytecode_is_its_sources() -> None:
    cache = f"{SITE}/__pycache__"
    found = tree({f"{SITE}/one.py": "", f"{cache}/one.cpython-311.pyc": "1", f"{cache}/two.cpython-311.pyc": "2"})
    assert list(python.bytecode(found, {f"{SITE}/one.py"})) == [f"{cache}/one.cpython-311.pyc"]


def test_a_distribution_of_the_system_is_the_systems() -> None:
    found = tree(distribution(SITE, "one"))
    assert python.distributions(found, {f"{SITE}/one-1.0.dist-info/METADATA"}) == []


@pytest.mark.parametrize(
    ("lines", "licenses"),
    [
        (["License-Expression: MIT OR Apache-2.0", "License: ignored"], ("MIT OR Apache-2.0",)),
        (["Classifier: License :: OSI Approved :: BSD License", "License: ignored"], ("BSD License",)),
        (["License: BSD-3-Clause"], ("BSD-3-Clause",)),
        (["License: The whole text", "        goes on"], ("The whole text",)),
        ([], ()),
    ],
)
def test_licences_are_those_it_names(lines: list[str], licenses: tuple[str, ...]) -> None:
    assert python.distributions(tree(distribution(SITE, "one", *lines)), set())[0].licenses == licenses


def test_a_new_environment_has_files_that_no_distribution_recorded() -> None:
    found = tree({"opt/venv/pyvenv.cfg": "", "opt/venv/bin/python3.11": "-> python3", f"{SITE}/evil.pth": "import os"})
    assert python.venvs(found) == ["opt/venv/"]
    assert python.is_scaffold("opt/venv/bin/python3.11", "opt/venv/")
    assert not python.is_scaffold(f"{SITE}/evil.pth", "opt/venv/")


def test_a_python_that_was_built_from_source_is_one_component() -> None:
    header = '#define PY_VERSION             "3.11.9"\n'
    found = tree({"usr/local/lib/python3.11/os.py": "", "usr/local/include/python3.11/patchlevel.h": header})
    (one,) = python.interpreters(found, set())
    assert (one.prefix, one.version) == ("usr/local", "3.11.9")
    for path in ("lib/python3.11/json/decoder.py", "bin/python3.11", "lib/libpython3.11.so.1.0", "bin/2to3-3.11"):
        assert python.is_interpreter(f"usr/local/{path}", one), path
    for path in ("lib/python3.11/site-packages/evil.pth", "bin/gcc", "share/x"):
        assert not python.is_interpreter(f"usr/local/{path}", one), path
    assert python.interpreters(found, {"usr/local/lib/python3.11/os.py"}) == []
