"""`trtpack compile` of a model with layers of its own: to ONNX, checked there, and to TensorRT-RTX plans."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from packager.cli import main
from runtime.engine import manifest
from tests.tiny import make_checkpoint

pytestmark = pytest.mark.usefixtures("shipped_layers")
EXAMPLES = Path(__file__).parents[3] / "examples" / "layers"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The example of a norm, in a package whose checkpoint has the example's activation too."""
    checkpoint = make_checkpoint("llama", tmp_path / "checkpoint", hidden_act="relu2")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "architectures": ["FromOneForCausalLM"]}))
    folder = tmp_path / "package"
    (folder / "model").mkdir(parents=True)
    examples = [EXAMPLES / name for name in ("activation.py", "norm.py")]
    (folder / "model" / "layers.py").write_text("\n".join(path.read_text() for path in examples))
    (folder / "config.yaml").write_text(
        "engine: {checkpoint: ../checkpoint, dtype: float16, max_model_len: 64, layers: model/layers.py}\n"
    )
    return folder


def trtpack(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.mark.slow
def test_layers_of_its_own_compile(package: Path) -> None:
    """And the graphs, run in place of the plans, compute what the checkpoint does."""
    result = trtpack("compile", package, "--gpu", "T4")
    assert result.exit_code == 0, result.output
    written = manifest.read(package / "engine")
    assert (written.model.config.activation, written.model.config.norm) == ("relu2", "from_one")
    assert {name for name in written.files if name.startswith("plans/")} == {
        f"plans/sm75/{kind}.plan" for kind in ("opening", "middle", "closing", "head")
    }
    layers = package / "model" / "layers.py"
    compared = trtpack("compare", package / "engine", package.parent / "checkpoint", "--layers", layers)
    assert compared.exit_code == 0, compared.output


def test_without_them_the_checkpoint_is_refused(package: Path) -> None:
    shutil.copy(EXAMPLES / "norm.py", package / "model" / "layers.py")
    result = trtpack("compile", package, "--gpu", "T4")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "activation 'relu2' is not registered: name the file that registers it under engine.layers" in result.stderr
    assert not (package / "engine").exists()
