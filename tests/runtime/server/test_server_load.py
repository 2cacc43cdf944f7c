"""From the start of the process until it is ready, or ends."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.server.package import Package, PackageError


def test_live_at_once_ready_only_when_loaded(start):
    served = start("""
        import pathlib, time
        class Model:
            def load(self):
                while not pathlib.Path("go").exists(): time.sleep(0.01)
            def predict(self, inputs): return inputs
        """).connect()
    assert served.client.get("/").status_code == 200
    for path in ("/v1/models/model", "/v1/models/model/loaded"):
        assert served.client.get(path).status_code == 503
    refused = served.predict({})
    assert refused.status_code == 503
    assert "not loaded" in refused.json()["error"]
    Path(f"/proc/{served.process.pid}/cwd/go").touch()
    served.ready()
    assert served.client.get("/v1/models/model/loaded").status_code == 200
    assert served.predict({"a": 1}).json() == {"a": 1}
    assert "Executing model.load()..." in served.log
    assert "Completed model.load() execution in " in served.log
    assert "GET /v1/models" not in served.log, "probes are not logged"
    seconds = [
        line for line in served.client.get("/metrics").text.splitlines() if line.startswith("trtpack_model_load")
    ]
    assert float(seconds[0].split()[1]) > 0


FAILURES = {
    "import": ("import not_there", "ModuleNotFoundError: No module named 'not_there'", "import not_there"),
    "load": (
        """
        def fetch(): raise ValueError("no weights")
        class Model:
            def load(self): fetch()
            def predict(self): return 0
        """,
        "ValueError: no weights",
        "in fetch",
    ),
    "async load": (
        """
        import sys
        class Model:
            async def load(self): sys.exit(3)
            async def predict(self): return 0
        """,
        "SystemExit: 3",
        "in load",
    ),
}


@pytest.mark.parametrize(("model", "error", "place"), FAILURES.values(), ids=FAILURES.keys())
def test_failed_load_ends_the_process_with_the_users_traceback(start, model, error, place):
    served = start(model)
    assert served.process.wait(10) == 1
    _, _, shown = served.log.partition("Exception while loading model")
    assert error in shown
    assert place in shown
    assert "runtime/server" not in shown and "concurrent/futures" not in shown and "importlib" not in shown


def test_engine_that_cannot_be_loaded_is_one_message(start):
    served = start("""
        from runtime.errors import EngineError
        class Model:
            def load(self): raise EngineError("built for L4")
            def predict(self): return 0
        """)
    assert served.process.wait(10) == 1
    assert "Cannot load the model: built for L4" in served.log
    assert "Traceback" not in served.log


def test_layers_are_registered_before_the_model_is_made(start):
    served = start(
        """
        from runtime.model.families import FAMILIES
        class Model:
            def __init__(self): self.seen = list(FAMILIES)
            def predict(self): return self.seen
        """,
        "engine: {layers: model/layers.py}",
        **{"model/layers.py": "from runtime.model.families import family, llama\nfamily('Own')(llama)"},
    ).connect()
    assert "Own" in served.ready().predict({}).json()


def test_layers_that_cannot_be_loaded_are_one_message(start):
    served = start("class Model: ...", "engine: {layers: model/layers.py}", **{"model/layers.py": "1 / 0"})
    assert served.process.wait(10) == 1
    assert f"engine.layers: {served.package}/model/layers.py:1: ZeroDivisionError: division by zero" in served.log
    assert "Traceback" not in served.log


def test_package_without_the_class_says_so(start):
    served = start("class Other: pass")
    assert served.process.wait(10) == 1
    assert "Cannot load the model: model/model.py defines no class Model" in served.log


def test_init_gets_what_it_asks_for_and_load_may_be_async(start):
    served = start(
        """
        from bundled import VALUE
        from .neighbour import NAME
        class Model:
            def __init__(self, secrets, data_dir, config):
                self.seen = {"token": secrets["token"], "name": config["model_name"]}
                self.seen["data"] = (data_dir / "a.txt").read_text()
            async def load(self): self.seen["loaded"] = True
            def predict(self): return self.seen | {"bundled": VALUE, "neighbour": NAME}
        """,
        "secrets: {token: abc}",
        **{"packages/bundled.py": "VALUE = 1", "model/neighbour.py": "NAME = 2", "data/a.txt": "some data"},
    ).connect()
    seen = served.ready().predict({}).json()
    assert seen == {"token": "abc", "data": "some data", "name": "test", "loaded": True, "bundled": 1, "neighbour": 2}


def test_init_with_keywords_gets_everything(start):
    served = start("""
        class Model:
            def __init__(self, **kwargs):
                kwargs["lazy_data_resolver"].block_until_download_complete()
                self.names = sorted(kwargs)
            def predict(self): return self.names
        """).connect()
    names = ["config", "data_dir", "environment", "lazy_data_resolver", "secrets"]
    assert served.ready().predict({}).json() == names


def test_nothing_of_the_packaging_side_is_imported(start):
    served = start("""
        import sys
        import runtime.errors
        class Model:
            def predict(self): return sorted({name.partition(".")[0] for name in sys.modules})
        """).connect()
    modules = set(served.ready().predict({}).json())
    assert {"runtime", "fastapi"} <= modules
    assert not modules & {"packager", "k8s", "transformers", "huggingface_hub", "torch"}


def test_unhealthy_model_is_not_ready_but_loaded(start):
    served = start("""
        class Model:
            answers = [True, False, "raise", True]
            def is_healthy(self):
                answer = self.answers.pop(0)
                if answer == "raise": raise ValueError("sick")
                return answer
            def predict(self): return 0
        """).connect()
    served.ready()
    codes = [served.client.get("/v1/models/model").status_code for _ in range(3)]
    assert codes == [503, 503, 200]
    assert "ValueError: sick" in served.log


def run(package: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runtime.server", "--package", str(package), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)


def test_taken_port_is_one_line(write):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run(write(""), "--port", port)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: cannot listen on 127.0.0.1:{port}: Address already in use")
    assert ended.stderr.count("\n") == 1


def test_no_package_is_one_line(tmp_path):
    ended = run(tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == f"error: cannot read {tmp_path}/config.yaml: No such file or directory\n"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("runtime: {predict_concurrency: 0}", "runtime.predict_concurrency must be a whole number of at least 1"),
        ("runtime: 1", "runtime.predict_concurrency must be a whole number of at least 1"),
        ("a: [", "is not YAML"),
    ],
)
def test_wrong_config(write, config, message):
    with pytest.raises(PackageError, match=message) as caught:
        Package.open(write("", config))
    assert "\n" not in str(caught.value)
