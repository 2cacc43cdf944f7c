"""The build context: complete, private to its package, the same bytes each time, and never over somebody's files."""

import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from k8s.gpus import find
from packager.config import PackageConfig
from packager.errors import ConfigError, TrtpackError
from packager.image import Options, write_context
from runtime.engine import manifest
from runtime.engine.manifest import Backend, Speculation, Target
from runtime.errors import EngineError
from tests import engines, plans
from tests.plans import VERSION
from tests.wheels import make_wheel

Loaded = Callable[..., tuple[Path, PackageConfig]]


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def with_engine(loaded: Loaded, tiny_engine: Callable[..., Path]) -> Loaded:
    """A package with its own copy of a compiled engine."""

    def make(**fields: Any) -> tuple[Path, PackageConfig]:
        folder, config = loaded(engine={"checkpoint": "hf://tiny/tiny", "dtype": "float32"}, **fields)
        shutil.copytree(tiny_engine(), folder / "engine", dirs_exist_ok=True)
        return folder, config

    return make


@pytest.mark.slow
def test_holds_what_the_image_needs_and_nothing_else(with_engine: Loaded, tmp_path: Path) -> None:
    package, config = with_engine()
    (package / "engine" / "left-over.tmp").write_text("from another tool")
    write_context(package, config, tmp_path / "context")
    written = files(tmp_path / "context")
    engine = ("image/engine/", "image/weights/")
    own = {name for name in written if not name.startswith(("image/trtpack/", *engine))}
    assert own == {
        *("Dockerfile", ".dockerignore", ".trtpack-context", "build/requirements.lock", "image/app/config.yaml"),
        *("image/app/model/__init__.py", "image/app/model/model.py"),
        *("image/data/words.txt", "image/packages/helper.py"),
    }
    held = {name.split("/", 2)[2]: data for name, data in written.items() if name.startswith(engine)}
    assert held == {k: v for k, v in files(package / "engine").items() if k != "left-over.tmp"}
    assert "image/trtpack/runtime/server/__main__.py" in written
    assert not any("__pycache__" in name or name.endswith(".pyc") for name in written)


def test_the_app_folder_finds_every_layer(with_engine: Loaded, tmp_path: Path) -> None:
    """Links that hold here hold in the image, whose root is the folder image/."""
    package, config = with_engine(data_dir="files/data")
    (package / "files").mkdir()
    (package / "data").rename(package / "files" / "data")
    write_context(package, config, tmp_path / "context")
    app = tmp_path / "context" / "image" / "app"
    manifest.verify(app / "engine", manifest.read(app / "engine"))
    assert (app / "files" / "data" / "words.txt").read_text() == "one two\n"
    assert (app / "packages" / "helper.py").read_text() == "ONE = 1\n"
    assert {path.name for path in (tmp_path / "context" / "image").iterdir()} == {
        *("trtpack", "weights", "engine", "data", "packages", "app")
    }


def test_other_limits_leave_the_layer_of_the_weights_as_it_was(with_engine: Loaded, tmp_path: Path) -> None:
    package, config = with_engine()
    write_context(package, config, tmp_path / "one")
    limits = manifest.read(package / "engine").limits.model_copy(update={"max_batch_size": 7})
    engines.rewrite(package / "engine", limits=limits)
    write_context(package, config, tmp_path / "two")
    one, two = (files(tmp_path / name / "image") for name in ("one", "two"))
    assert {name for name in one if one[name] != two[name]} == {"engine/engine.json"}


def test_two_contexts_are_byte_identical(with_engine: Loaded, tmp_path: Path) -> None:
    package, config = with_engine(environment_variables={"B": "2", "A": "1"}, secrets={"token": "t"})
    for name in ("one", "two"):
        write_context(package, config, tmp_path / name)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert states(tmp_path / "one") == states(tmp_path / "two")


def test_a_copy_of_a_package_has_the_same_context(with_engine: Loaded, tmp_path: Path) -> None:
    """As another machine's checkout: the files' times differ, and only those of linked files are kept."""
    package, config = with_engine()
    write_context(package, config, tmp_path / "one")
    shutil.copytree(package, tmp_path / "copy", copy_function=shutil.copyfile)
    write_context(tmp_path / "copy", config, tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")
    one, two = states(tmp_path / "one"), states(tmp_path / "two")
    assert {name for name in one if one[name] != two[name]} <= {
        path.relative_to(tmp_path / "one").as_posix()
        for path in (tmp_path / "one").rglob("*")
        if path.lstat().st_nlink > 1 and path.is_file()
    }


def states(folder: Path) -> dict[str, tuple[int, int]]:
    found = {path.relative_to(folder).as_posix(): path.lstat() for path in folder.rglob("*")}
    return {name: (status.st_mode, status.st_mtime_ns) for name, status in found.items()}


def test_the_engine_s_own_files_are_not_touched(with_engine: Loaded, tmp_path: Path) -> None:
    package, config = with_engine()
    before = states(package / "engine")
    write_context(package, config, tmp_path / "context")
    assert states(package / "engine") == before


def test_engine_is_not_copied_where_it_can_be_linked(with_engine: Loaded, tmp_path: Path) -> None:
    package, config = with_engine()
    write_context(package, config, tmp_path / "context")
    weights = tmp_path / "context" / "image" / "weights"
    found = list(weights.rglob("*.safetensors"))
    assert found
    assert all(path.samefile(package / "engine" / path.relative_to(weights)) for path in found)


def test_every_file_can_be_read_by_the_image_s_user(with_engine: Loaded, tmp_path: Path) -> None:
    package, config = with_engine()
    private = [package / "model" / "model.py", next((package / "engine").rglob("*.safetensors"))]
    for path in private:
        path.chmod(0o600)
    (package / "data").chmod(0o700)
    write_context(package, config, tmp_path / "context")
    for path in (tmp_path / "context").rglob("*"):
        needed = stat.S_IROTH | (stat.S_IXOTH if path.is_dir() else 0)
        assert path.stat().st_mode & needed == needed, path
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in private)


def test_package_without_an_engine(loaded: Loaded, tmp_path: Path) -> None:
    package, config = loaded()
    write_context(package, config, tmp_path / "context")
    written = files(tmp_path / "context")
    assert not any(name.startswith(("image/engine", "image/weights")) for name in written)
    assert b"torch==" not in written["build/requirements.lock"]
    assert b"engine" not in written["Dockerfile"]
    assert not (tmp_path / "context" / "image" / "app" / "engine").is_symlink()


def test_corrupt_engine_is_refused_before_anything_is_written(with_engine: Loaded, tmp_path: Path) -> None:
    package, config = with_engine()
    weights = next((package / "engine").rglob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(EngineError, match=f"{weights.name} has sha256"):
        write_context(package, config, tmp_path / "context")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["package"]


def test_missing_engine_names_the_command_that_makes_one(loaded: Loaded, tmp_path: Path) -> None:
    package, config = loaded(engine={"checkpoint": "hf://tiny/tiny"})
    with pytest.raises(EngineError, match=r"engine\.json does not exist; compile the engine with: trtpack compile"):
        write_context(package, config, tmp_path / "context")


@pytest.mark.parametrize(("accelerator", "asked"), [(None, "names no accelerator"), ("L4", "asks for nvidia-l4")])
def test_engine_for_another_gpu_is_refused(
    with_engine: Loaded, tmp_path: Path, accelerator: str | None, asked: str
) -> None:
    package, config = with_engine(resources={"accelerator": accelerator})
    retarget(package, "nvidia-h100-80gb")
    with pytest.raises(TrtpackError, match=f"was compiled for nvidia-h100-80gb, config.yaml {asked}"):
        write_context(package, config, tmp_path / "context")


def test_engine_for_the_same_device_under_another_label_is_taken(with_engine: Loaded, tmp_path: Path) -> None:
    package, config = with_engine(resources={"accelerator": "nvidia-h100-mega-80gb"})
    retarget(package, "nvidia-h100-80gb")
    write_context(package, config, tmp_path / "context")
    assert (tmp_path / "context" / "image" / "engine" / "engine.json").is_file()


def retarget(package: Path, gpu: str) -> None:
    path = package / "engine" / "engine.json"
    target = Target(gpu=gpu, compute_capability=find(gpu).compute_capability)
    path.write_text(manifest.read(path.parent).model_copy(update={"targets": (target,)}).dump())


def test_what_only_a_cpu_reads_stays_out_of_a_gpus_image(with_engine: Loaded, tmp_path: Path) -> None:
    package, config = with_engine(resources={"accelerator": "L4"})
    engine = package / "engine"
    found = manifest.read(engine)
    optional = {name: file.model_copy(update={"optional": "weights/" in name}) for name, file in found.files.items()}
    backend = Backend(name="tensorrt-rtx", version=VERSION, torch=found.backend.torch)
    (engine / "engine.json").write_text(found.model_copy(update={"backend": backend, "files": optional}).dump())
    write_context(package, config, tmp_path / "context")
    image = tmp_path / "context" / "image" / "engine"
    assert {path.name for path in image.iterdir()} == {"engine.json", "tokenizer"}
    assert f"tensorrt-rtx=={VERSION} \\\n" in (tmp_path / "context" / "build" / "requirements.lock").read_text()
    manifest.verify(image, manifest.read(image))


def test_of_an_engine_for_several_gpus_only_what_the_image_s_gpu_reads_goes_in(loaded: Loaded, tmp_path: Path) -> None:
    package, config = loaded(engine={"checkpoint": "hf://tiny/tiny"}, resources={"accelerator": "RTX_PRO_6000"})
    made = plans.make_engine(package / "engine", "8.9", "12.0", speculation=Speculation(method="draft_model"))
    plans.make_engine(package / "engine" / "draft", "8.9", "12.0")
    plans.record(package / "engine", made)
    (package / "engine" / "engine.json").write_text(made.dump())
    write_context(package, config, tmp_path / "context")
    image = tmp_path / "context" / "image" / "engine"
    for folder in (image, image / "draft"):
        found = manifest.read(folder)
        assert [target.gpu for target in found.targets] == ["nvidia-rtx-pro-6000"]
        assert {path.parent.name for path in folder.rglob("*.plan")} == {"sm120"}
        manifest.verify(folder, found)
    assert [target.compute_capability for target in manifest.read(package / "engine").targets] == ["8.9", "12.0"]


def test_an_engine_unlike_the_config_is_told(
    with_engine: Loaded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package, config = with_engine()
    write_context(package, config, tmp_path / "context")
    told = " ".join(capsys.readouterr().err.split())
    assert "config.yaml says hf://tiny/tiny" in told
    assert "dtype" not in told


@pytest.mark.parametrize("source", ["oci://registry.example/tiny:1", "hf://org/tiny"])
def test_an_engine_that_is_pulled_at_start_stays_out(loaded: Loaded, tmp_path: Path, source: str) -> None:
    package, config = loaded(engine={"source": source})
    write_context(package, config, tmp_path / "context")
    image = tmp_path / "context" / "image"
    assert not {"engine", "weights"} & {path.name for path in [*image.iterdir(), *(image / "app").iterdir()]}
    assert f'ENV TRTPACK_ENGINE_SOURCE="{source}"\n' in (tmp_path / "context" / "Dockerfile").read_text()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("own.txt", "-r more.txt\n"),
        ("pyproject.toml", '[project]\nname = "x"\ndependencies = ["leftpad"]\n'),
    ],
)
def test_a_requirements_file_is_locked_with_ours(
    loaded: Loaded, empty_wheels: Path, tmp_path: Path, name: str, text: str
) -> None:
    package, config = loaded(requirements_file=name)
    (package / name).write_text(text)
    (package / "more.txt").write_text("leftpad>=1\n")
    wheels = shutil.copytree(empty_wheels, tmp_path / "wheels")
    make_wheel(wheels, "leftpad", "1.3")
    write_context(package, config, tmp_path / "context", Options(wheels=wheels))
    lock = (tmp_path / "context" / "build" / "requirements.lock").read_text()
    assert "leftpad==1.3 \\\n" in lock
    assert "uvicorn==" in lock


def test_a_certificate_and_wheels_are_for_the_build(loaded: Loaded, no_index: Path, tmp_path: Path) -> None:
    package, config = loaded()
    certificate = tmp_path / "own.pem"
    certificate.write_text("-----BEGIN CERTIFICATE-----\n")
    write_context(package, config, tmp_path / "context", Options(wheels=no_index, ca_cert=certificate))
    build = tmp_path / "context" / "build"
    assert (build / "ca.crt").read_bytes() == certificate.read_bytes()
    assert {path.name for path in (build / "wheels").iterdir()} == {path.name for path in no_index.iterdir()}
    certificate.write_text("not a certificate")
    with pytest.raises(ConfigError, match=r"own\.pem is no certificate in PEM format"):
        write_context(package, config, tmp_path / "other", Options(ca_cert=certificate))


def test_replaces_its_own_output(loaded: Loaded, tmp_path: Path) -> None:
    package, config = loaded()
    out = tmp_path / "context"
    write_context(package, config, out)
    (out / "extra").write_text("added by hand")
    write_context(package, config, out)
    assert not (out / "extra").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["context", "package"]


def test_never_replaces_somebody_s_folder(loaded: Loaded, tmp_path: Path) -> None:
    package, config = loaded()
    out = tmp_path / "mine"
    out.mkdir()
    (out / "Dockerfile").write_text("FROM scratch\n")
    with pytest.raises(TrtpackError, match="mine exists and is not a build context"):
        write_context(package, config, out)
    assert files(out) == {"Dockerfile": b"FROM scratch\n"}


@pytest.mark.parametrize("inside", ["data/context", "model", "engine/x"])
def test_never_writes_into_what_it_copies(loaded: Loaded, inside: str) -> None:
    package, config = loaded()
    before = files(package)
    with pytest.raises(TrtpackError):
        write_context(package, config, package / inside)
    assert files(package) == before


def test_links_are_followed(loaded: Loaded, tmp_path: Path) -> None:
    package, config = loaded()
    (tmp_path / "elsewhere.bin").write_bytes(b"weights")
    (package / "data" / "link.bin").symlink_to(tmp_path / "elsewhere.bin")
    write_context(package, config, tmp_path / "context")
    assert not (tmp_path / "context/image/data/link.bin").is_symlink()
    assert (tmp_path / "context/image/data/link.bin").read_bytes() == b"weights"


def test_a_link_to_nothing_is_named(loaded: Loaded, tmp_path: Path) -> None:
    package, config = loaded()
    (package / "data" / "link.bin").symlink_to(tmp_path / "gone.bin")
    with pytest.raises(TrtpackError, match=r"link\.bin"):
        write_context(package, config, tmp_path / "context")
    assert not (tmp_path / "context").exists()


def test_external_packages_join_the_bundled_ones(loaded: Loaded, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "common.py").write_text("TWO = 2\n")
    package, config = loaded(external_package_dirs=["../shared"])
    write_context(package, config, tmp_path / "context")
    assert {name for name in files(tmp_path / "context") if name.startswith("image/packages/")} == {
        "image/packages/helper.py",
        "image/packages/common.py",
    }


def test_folders_under_names_of_their_own(loaded: Loaded, tmp_path: Path) -> None:
    package, config = loaded(model_module_dir="src/app", model_class_filename="main.py", data_dir="files")
    (package / "model").rename(package / "src")
    (package / "src" / "app").mkdir()
    (package / "src" / "app" / "main.py").write_text("class Model: ...\n")
    write_context(package, config, tmp_path / "context")
    written = files(tmp_path / "context")
    assert "image/app/src/app/main.py" in written
    assert not any(name.startswith("image/data/") for name in written)
    assert b"/out/app/src/app" in written["Dockerfile"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_class_filename": "gone.py"}, r"model/gone\.py does not exist"),
        ({"external_package_dirs": ["../gone"]}, r"external_package_dirs: .*gone is no folder"),
        ({"requirements_file": "gone.txt"}, r"requirements_file: .*gone\.txt does not exist"),
        ({"python_version": "py310"}, "python_version is py310, but the runtime needs 3.11"),
        ({"environment_variables": {"A": "x\ny"}}, "environment_variables.A has a line break"),
    ],
)
def test_what_cannot_be_built_is_a_config_error(
    loaded: Loaded, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    package, config = loaded(**fields)
    with pytest.raises(ConfigError, match=message):
        write_context(package, config, tmp_path / "context")
    assert not (tmp_path / "context").exists()


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("model/gone.py", r"engine\.layers: .*model/gone\.py does not exist"),
        (
            "notes/private.txt",
            r"notes/private\.txt lies in no folder that goes into the image \(data, packages, model\)",
        ),
    ],
)
def test_layers_that_would_not_be_in_the_image_are_refused(
    with_engine: Loaded, tmp_path: Path, layers: str, message: str
) -> None:
    package, config = with_engine()
    engine = config.engine and config.engine.model_copy(update={"layers": layers})
    with pytest.raises(ConfigError, match=message):
        write_context(package, config.model_copy(update={"engine": engine}), tmp_path / "context")


def test_layers_go_into_the_image(with_engine: Loaded, tmp_path: Path) -> None:
    package, config = with_engine()
    engine = config.engine and config.engine.model_copy(update={"layers": "packages/helper.py"})
    write_context(package, config.model_copy(update={"engine": engine}), tmp_path / "context")
    assert (tmp_path / "context" / "image" / "app" / "packages" / "helper.py").is_file()


def test_a_folder_called_as_one_of_the_image_s_is_refused(loaded: Loaded, tmp_path: Path) -> None:
    package, config = loaded(data_dir="runtime")
    (package / "runtime").mkdir()
    with pytest.raises(ConfigError, match="cannot be called 'runtime'"):
        write_context(package, config, tmp_path / "context")


def test_secrets_stay_out_of_the_image(loaded: Loaded, tmp_path: Path) -> None:
    package, config = loaded(secrets={"token": "open sesame", "other": None})
    write_context(package, config, tmp_path / "context")
    assert not any(b"sesame" in data for data in files(tmp_path / "context").values())


def test_a_draft_model_goes_in_whole(with_engine: Loaded, tiny_engine: Callable[..., Path], tmp_path: Path) -> None:
    package, config = with_engine()
    engines.rewrite(package / "engine", speculation=Speculation(method="draft_model"))
    draft = shutil.copytree(tiny_engine("qwen3"), package / "engine" / "draft")
    write_context(package, config, tmp_path / "context")
    image = tmp_path / "context" / "image"
    held = files(image / "engine" / "draft") | files(image / "weights" / "draft")
    assert held == files(draft)
    manifest.verify(image / "engine" / "draft", manifest.read(image / "engine" / "draft"))
    weights = next((draft / "weights").iterdir())
    weights.write_bytes(b"damaged")
    with pytest.raises(EngineError, match=f"{weights.name} has"):
        write_context(package, config, tmp_path / "other")
