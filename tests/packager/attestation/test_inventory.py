from pathlib import Path

import pytest

from packager.attestation.inventory import take
from runtime.errors import EngineError
from tests.packager.attestation.tars import Files, tree
from tests.packager.attestation.test_dpkg import SYSTEM
from tests.packager.attestation.test_python import SITE, distribution
from tests.plans import make_engine

FOLDERS = ("/app", "/trtpack")


@pytest.fixture
def image(tmp_path: Path) -> Files:
    """A small image in which every file is somebody's, laid out as trtpack build does."""
    make_engine(tmp_path, backend="torch")
    layers = {"engine.json": "engine", "weights": "weights", "tokenizer": "weights"}
    engine = {
        f"{layers[path.relative_to(tmp_path).parts[0]]}/{path.relative_to(tmp_path)}": path.read_bytes()
        for path in tmp_path.rglob("*.*")
    }
    return {
        **SYSTEM,
        **distribution(SITE, "one"),
        **engine,
        "app/engine": "-> ../engine",
        "engine/weights": "-> ../weights/weights",
        "engine/tokenizer": "-> ../weights/tokenizer",
        "app/data": "-> ../data",
        "data/words.txt": "one two",
        "bin/sh": "dash",
        "etc/gone.conf": "-> /etc/alternatives/gone",
        "etc/ld.so.cache": "cache",
        "opt/venv/pyvenv.cfg": "home = /usr/bin\n",
        "opt/venv/bin/python": "-> python3",
        f"{SITE}/__pycache__/one.cpython-311.pyc": "code",
        "trtpack/runtime/llm.py": "class LLM: ...\n",
        "app/config.yaml": "model_name: tiny\n",
        "app/model/model.py": "class Model: ...\n",
    }


def unaccounted(files: Files) -> list[str]:
    return list(take(tree(files), FOLDERS).unaccounted)


def test_every_file_of_an_image_is_somebodys(image: Files) -> None:
    found = take(tree(image), FOLDERS)
    assert found.unaccounted == ()
    assert set(found.own) == {
        *("trtpack/runtime/llm.py", "app/config.yaml", "app/model/model.py"),
        *("data/words.txt", "app/data", "app/engine"),
    }
    assert [one.name for one in found.distributions] == ["one"]
    assert found.engine and not found.engine.problems()


@pytest.mark.parametrize(
    "path",
    [
        "usr/bin/miner",  # nobody's
        "etc/cron.d/miner",
        "etc/profile.d/miner.sh",
        "etc/systemd/system/miner.service",
        "var/log/miner.log",
        "usr/lib/libc.so.6",  # Debian's, changed
        f"{SITE}/one.py",  # a distribution's, changed
        f"{SITE}/evil.pth",  # in an environment, recorded by none
        f"{SITE}/__pycache__/two.cpython-311.pyc",  # bytecode without its source
        "weights/weights/model-00001.safetensors",  # the engine's, changed
        "engine/plans/evil.plan",  # in the engine, in no engine.json
        "weights/weights/evil.bin",
        "weights/evil.bin",
    ],
)
def test_what_is_nobodys_or_changed_is_said(image: Files, path: str) -> None:
    assert path in unaccounted({**image, path: "something else"})


def test_what_is_as_in_the_base_image_came_from_there(image: Files) -> None:
    base = tree({"usr/bin/tool": "1", "usr/bin/other": "2", "usr/bin/gone": "3"})
    found = take(tree({**image, "usr/bin/tool": "1", "usr/bin/other": "changed"}), FOLDERS, base)
    assert set(found.inherited) == {"usr/bin/tool"}
    assert found.unaccounted == ("usr/bin/other",)


def test_without_a_working_folder_nothing_is_the_packages_own(image: Files) -> None:
    found = take(tree(image), ())
    assert not found.own
    assert "app/model/model.py" in found.unaccounted


def test_an_engine_json_that_is_none_is_told(image: Files) -> None:
    with pytest.raises(EngineError, match=r"the engine.json of /app/engine is not valid"):
        unaccounted({**image, "engine/engine.json": "{}"})
