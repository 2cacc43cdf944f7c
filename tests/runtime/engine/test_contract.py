"""What keeps an engine from running here is one message, and comes before a weight is read."""

import json
import logging
from pathlib import Path

import pytest

from runtime.engine import contract, manifest
from runtime.engine.device import Device
from runtime.engine.engine import Engine
from runtime.engine.manifest import Limits, Manifest, Precision, Quantization
from runtime.errors import EngineError
from tests.plans import VERSION, build, make_engine, record, write

GIB = 2**30
L4 = Device("NVIDIA L4", "8.9", 23034 * 2**20, "580.95.05")
T4 = Device("Tesla T4", "7.5", 15360 * 2**20, "580.95.05")
BLACKWELL = Device("NVIDIA RTX PRO 6000 Blackwell Server Edition", "12.0", 97887 * 2**20, "590.44.01")
MIDDLE = "plans/sm89/middle.plan"


@pytest.fixture
def made(tmp_path: Path) -> Manifest:
    return make_engine(tmp_path, "8.9")


def refused(folder: Path, on: str = "cuda", device: Device | None = L4, version: str | None = VERSION) -> str:
    """The one line with which it does not start."""
    with pytest.raises(EngineError) as caught:
        contract.check_start(folder, manifest.read(folder), on, device, version)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_on_its_gpu_it_may_start(tmp_path: Path, made: Manifest) -> None:
    contract.check_start(tmp_path, made, "cuda", L4, VERSION)


def test_one_engine_for_several_gpus_starts_on_each_and_reads_that_ones_plans(tmp_path: Path) -> None:
    made = make_engine(tmp_path, "8.9", "12.0")
    for device in (L4, BLACKWELL):
        contract.check_start(tmp_path, made, "cuda", device, VERSION)
    assert "for nvidia-l4 (8.9), nvidia-rtx-pro-6000 (12.0), and this machine has Tesla T4" in refused(
        tmp_path, device=T4
    )
    write(tmp_path, "plans/sm120/head.plan", build("8.9"))
    record(tmp_path, made)
    assert "plans/sm120/head.plan is for compute capability 8.9" in refused(tmp_path, device=BLACKWELL)
    contract.check_start(tmp_path, manifest.read(tmp_path), "cuda", L4, VERSION)


def test_no_gpu(tmp_path: Path, made: Manifest) -> None:
    assert refused(tmp_path, device=None) == (
        "the engine is for nvidia-l4 (8.9), and this machine has no NVIDIA GPU: run it on a node with one, or try it "
        "on the CPU with trtpack serve --device cpu (in a container: TRTPACK_DEVICE=cpu)"
    )


def test_another_gpu(tmp_path: Path, made: Manifest) -> None:
    assert refused(tmp_path, device=T4) == (
        "the engine's plans are for nvidia-l4 (8.9), and this machine has Tesla T4 (7.5): run it on a node with the "
        "GPU it is for, or compile it for this one with trtpack compile --gpu NAME"
    )


def test_a_plan_of_another_gpu(tmp_path: Path, made: Manifest) -> None:
    """Whoever swaps a plan may write its checksum as well: the plan's own header still tells."""
    said = f"{MIDDLE} is for compute capability 12.0, engine.json says 8.9; compile again"
    write(tmp_path, MIDDLE, build("12.0"))
    assert refused(tmp_path) == said
    record(tmp_path, made)
    assert refused(tmp_path) == said


@pytest.mark.parametrize("name", ["weights/model-00001.safetensors", MIDDLE, "tokenizer/tokenizer.json"])
def test_a_flipped_byte(name: str, tmp_path: Path, made: Manifest) -> None:
    content = bytearray((tmp_path / name).read_bytes())
    content[-1] ^= 1
    write(tmp_path, name, bytes(content))
    said = made.files[name].sha256
    assert refused(tmp_path) == (
        f"{tmp_path / name} has sha256 {manifest.sha256(tmp_path / name)}, engine.json says {said}; compile again"
    )


@pytest.mark.parametrize("left", [0, 40, 1000])
def test_a_truncated_plan(left: int, tmp_path: Path, made: Manifest) -> None:
    whole = (tmp_path / MIDDLE).read_bytes()
    write(tmp_path, MIDDLE, whole[:left])
    assert refused(tmp_path) == f"{tmp_path / MIDDLE} has {left} bytes, engine.json says {len(whole)}; compile again"


@pytest.mark.parametrize(("version", "found"), [("1.6.0.12", "1.6.0.12 is installed"), (None, "it is not installed")])
def test_another_version(version: str | None, found: str, tmp_path: Path, made: Manifest) -> None:
    assert refused(tmp_path, version=version) == (
        f"the engine was compiled with tensorrt-rtx {VERSION}, and here {found}: "
        f"pip install tensorrt-rtx=={VERSION}, or compile it again"
    )


def test_an_engine_json_of_another_version_than_its_plans(tmp_path: Path, made: Manifest) -> None:
    backend = made.backend.model_copy(update={"version": "1.6.0.12"})
    record(tmp_path, made.model_copy(update={"backend": backend}))
    said = f"plans/sm89/opening.plan was built by tensorrt-rtx {VERSION}, engine.json says tensorrt-rtx 1.6.0.12"
    assert said in refused(tmp_path, version="1.6.0.12")


def test_an_old_driver(tmp_path: Path, made: Manifest) -> None:
    old = Device("NVIDIA L4", "8.9", 24 * GIB, "535.288.01")
    assert refused(tmp_path, device=old) == (
        "NVIDIA L4 has NVIDIA driver 535.288.01, and CUDA 13 needs 580 or later: "
        "update the driver of this node, or run it on a newer one"
    )


class TestMemory:
    # One token's keys and values: 2 * 3 layers * 2 heads * 16 * 2 bytes.
    TOKEN = 2 * 3 * 2 * 16 * 2

    def device(self, memory: int) -> Device:
        return Device("NVIDIA L4", "8.9", memory, "580.95.05")

    def needed(self, made: Manifest) -> int:
        read = [name for name in made.files if name.startswith(("plans/sm89", "weights"))]
        return sum(made.files[name].size for name in read) + 512 * self.TOKEN

    def test_the_weights_and_one_sequence_must_fit(self, tmp_path: Path) -> None:
        made = make_engine(tmp_path, "8.9", "12.0")
        contract.check_start(tmp_path, made, "cuda", self.device(self.needed(made)), VERSION)
        message = refused(tmp_path, device=self.device(self.needed(made) - 1))
        assert message.endswith(
            "for one sequence of max_model_len 512, and NVIDIA L4 has 0.00 GiB: lower engine.max_model_len, or "
            "quantise it with engine.quantization, or choose a GPU with more memory, and compile it again"
        )

    def test_both_figures_are_told(self, tmp_path: Path) -> None:
        limits = Limits(max_model_len=12 * GIB // self.TOKEN, max_batch_size=1, max_num_tokens=1)
        made = make_engine(tmp_path, "8.9", limits=limits)
        name = "weights/model-00001.safetensors"
        huge = {**made.files, name: made.files[name].model_copy(update={"size": 10 * GIB})}
        with pytest.raises(EngineError) as caught:
            contract.check(made.model_copy(update={"files": huge}), self.device(20 * GIB), VERSION)
        assert str(caught.value).startswith(
            "the engine needs 22.00 GiB, 10.00 for its weights and 12.00 for one sequence of max_model_len "
            f"{limits.max_model_len}, and NVIDIA L4 has 20.00 GiB: "
        )

    def test_a_shorter_sequence_does_not_mend_weights_that_do_not_fit(self, tmp_path: Path) -> None:
        quantized = Precision(dtype="float16", quantization=Quantization(scheme="int8"))
        make_engine(tmp_path, "8.9", precision=quantized)
        message = refused(tmp_path, device=self.device(1000))
        assert message.endswith("has 0.00 GiB: choose a GPU with more memory, and compile it again")

    def test_weights_that_only_a_cpu_reads_do_not_count(self, tmp_path: Path) -> None:
        made = make_engine(tmp_path, "8.9", weights="embedded")
        enough = self.needed(made)
        name = "weights/embedded-00001.safetensors"
        write(tmp_path, name, bytes(GIB // 1024))
        made = record(tmp_path, made)
        files = {**made.files, name: made.files[name].model_copy(update={"optional": True})}
        contract.check(made.model_copy(update={"files": files}), self.device(enough), VERSION)

    def test_modules_run_on_dequantised_weights(self, tmp_path: Path) -> None:
        made = make_engine(tmp_path, backend="torch")
        block = 64 + (64 + 64) * 64 + 64 * 64 + 64 + 3 * 96 * 64
        enough = (2 * 320 * 64 + 64 + 3 * block) * 2 + 512 * self.TOKEN
        contract.check(made, self.device(enough), None)
        with pytest.raises(EngineError, match="the engine needs"):
            contract.check(made, self.device(enough - 1), None)


def test_files_that_only_a_cpu_reads_may_be_left_out(tmp_path: Path) -> None:
    name = "weights/embedded-00001.safetensors"
    made = make_engine(tmp_path, "8.9", weights="embedded")
    write(tmp_path, name, b"weights")
    made = record(tmp_path, made)
    files = {**made.files, name: made.files[name].model_copy(update={"optional": True})}
    (tmp_path / "engine.json").write_text(made.model_copy(update={"files": files}).dump())
    (tmp_path / name).unlink()
    contract.check_start(tmp_path, manifest.read(tmp_path), "cuda", L4, VERSION)
    assert f"{name} is missing, which a CPU needs and the engine's GPU does not" in refused(tmp_path, "cpu", None, None)
    write(tmp_path, name, b"Weights")
    assert f"{name} has sha256" in refused(tmp_path), "what is there must be whole"


class TestOnTheCpu:
    def test_any_engine_may_start(self, tmp_path: Path, made: Manifest) -> None:
        contract.check_start(tmp_path, made, "cpu")

    def test_its_plans_must_be_those_of_engine_json_all_the_same(self, tmp_path: Path, made: Manifest) -> None:
        write(tmp_path, MIDDLE, build("12.0"))
        assert f"{MIDDLE} is for compute capability 12.0" in refused(tmp_path, "cpu", None, None)

    def test_a_flipped_byte(self, tmp_path: Path, made: Manifest) -> None:
        write(tmp_path, "weights/model-00001.safetensors", bytes(4096))
        assert "model-00001.safetensors has sha256" in refused(tmp_path, "cpu", None, None)


class TestTorch:
    def test_it_runs_on_any_gpu(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        made = make_engine(tmp_path, "8.9", backend="torch")
        with caplog.at_level(logging.WARNING):
            contract.check_start(tmp_path, made, "cuda", L4)
            assert not caplog.messages
            contract.check_start(tmp_path, made, "cuda", T4)
        assert caplog.messages == ["The engine was compiled for nvidia-l4 (8.9), and runs on Tesla T4 (7.5)"]

    def test_without_a_target_no_gpu_is_another(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        contract.check_start(tmp_path, make_engine(tmp_path, backend="torch"), "cuda", T4)
        assert not caplog.messages

    def test_a_gpu_that_was_asked_for_must_be_there(self, tmp_path: Path) -> None:
        make_engine(tmp_path, backend="torch")
        assert refused(tmp_path, device=None).startswith(
            "the engine is to run on a GPU, and this machine has no NVIDIA"
        )

    @pytest.mark.parametrize(("cuda", "may"), [("12.9", True), ("13.0", False)])
    def test_the_driver_need_only_be_as_new_as_its_cuda(
        self, cuda: str, may: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("torch.version.cuda", cuda)
        made, old = make_engine(tmp_path, backend="torch"), Device("Tesla T4", "7.5", 16 * GIB, "550.90.07")
        if may:
            contract.check_start(tmp_path, made, "cuda", old)
        else:
            assert "550.90.07, and CUDA 13 needs 580" in refused(tmp_path, device=old)


def test_full_tensorrts_plans_are_checked_by_their_files_alone(tmp_path: Path) -> None:
    h100 = Device("NVIDIA H100 80GB HBM3", "9.0", 80 * GIB, "580.95.05")
    made = make_engine(tmp_path, "9.0", backend="tensorrt")
    contract.check_start(tmp_path, made, "cuda", h100, "11.4.1.5")
    assert "compiled with tensorrt 11.4.1.5, and here 11.4.1.6" in refused(tmp_path, device=h100, version="11.4.1.6")
    write(tmp_path, "plans/sm90/head.plan", b"ftrt" + bytes(99))
    assert "head.plan has 103 bytes, engine.json says 104" in refused(tmp_path, device=h100, version="11.4.1.5")


def test_the_order_of_the_checks(tmp_path: Path, made: Manifest) -> None:
    """With everything wrong at once, mending one uncovers the next."""
    write(tmp_path, "weights/model-00001.safetensors", b"")
    write(tmp_path, MIDDLE, build("12.0"))
    old, small = (Device("NVIDIA L4", "8.9", memory, driver) for memory, driver in ((1, "535.1"), (1, "580.1")))
    told = [
        refused(tmp_path, device=None, version=None),
        refused(tmp_path, device=T4, version=None),
        refused(tmp_path, device=old, version=None),
        refused(tmp_path, device=old),
        refused(tmp_path, device=small),
        refused(tmp_path),
    ]
    write(tmp_path, MIDDLE, build("8.9"))
    told.append(refused(tmp_path))
    words = ["no NVIDIA GPU", "has Tesla T4", "pip install", "driver", "GiB", "12.0, engine.json", "has 0 bytes"]
    assert all(word in message for word, message in zip(words, told, strict=True))


def test_engine_json_that_names_a_target_without_plans(tmp_path: Path, made: Manifest) -> None:
    content = json.loads((tmp_path / "engine.json").read_text())
    content["targets"][0]["compute_capability"] = "12.0"
    (tmp_path / "engine.json").write_text(json.dumps(content))
    assert "engine.json lists no plans/sm120/opening.plan" in refused(tmp_path, device=BLACKWELL)


def test_the_engine_itself_reads_no_weight_before_these_four(
    tmp_path: Path, made: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing GPU, another version, another GPU's plan, a flipped byte: four messages, none like another."""
    monkeypatch.setattr("runtime.engine.weights.read", lambda *_: pytest.fail("weights were read"))

    def told(device: Device | None) -> str:
        monkeypatch.setattr("runtime.engine.engine.probe", lambda: device)
        with pytest.raises(EngineError) as caught:
            Engine(tmp_path, device="cuda")
        return str(caught.value)

    assert "this machine has no NVIDIA GPU" in told(None)
    record(tmp_path, made.model_copy(update={"backend": made.backend.model_copy(update={"version": "1.6.0.12"})}))
    assert f"compiled with tensorrt-rtx 1.6.0.12, and here {VERSION} is installed" in told(L4)
    record(tmp_path, made)
    write(tmp_path, MIDDLE, build("12.0"))
    assert f"{MIDDLE} is for compute capability 12.0, engine.json says 8.9" in told(L4)
    write(tmp_path, MIDDLE, build("8.9")[:-1] + b"\x99")
    assert f"{MIDDLE} has sha256 " in told(L4)
