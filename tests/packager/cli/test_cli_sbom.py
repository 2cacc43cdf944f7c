import json
from pathlib import Path

from click.testing import CliRunner, Result

from packager.cli import main
from tests.plans import make_engine


def sbom(*args: object) -> Result:
    return CliRunner().invoke(main, ["sbom", *map(str, args)])


def test_an_engines_folder_and_its_package_are_the_same_to_it(tmp_path: Path) -> None:
    make_engine(tmp_path / "engine", backend="torch")
    (tmp_path / "config.yaml").write_text("model_name: tiny\n")
    of_folder, of_package = sbom(tmp_path / "engine"), sbom(tmp_path)
    assert of_folder.exit_code == 0, of_folder.output
    assert of_folder.stdout == of_package.stdout
    assert json.loads(of_folder.stdout)["bomFormat"] == "CycloneDX"


def test_it_writes_a_file(tmp_path: Path) -> None:
    make_engine(tmp_path / "engine", backend="torch")
    out = tmp_path / "engine.cdx.json"
    result = sbom(tmp_path / "engine", "--out", out)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert out.read_text() == sbom(tmp_path / "engine").stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engine", "engine.cdx.json"]


def test_a_damaged_engine_has_none(tmp_path: Path) -> None:
    make_engine(tmp_path, backend="torch")
    (tmp_path / "tokenizer/tokenizer.json").write_text("[]")
    result = sbom(tmp_path)
    assert result.exit_code == 1
    assert "tokenizer.json has sha256" in result.stderr


def test_a_folder_has_nothing_unaccounted(tmp_path: Path) -> None:
    make_engine(tmp_path, backend="torch")
    assert sbom(tmp_path, "--unaccounted").exit_code == 2


def test_without_docker_an_image_cannot_be_read(tmp_path: Path) -> None:
    result = CliRunner(env={"PATH": str(tmp_path)}).invoke(main, ["sbom", "smollm:latest"])
    assert result.exit_code == 1
    assert "no docker or podman command is installed" in result.stderr


def test_an_image_that_is_not_there_is_told(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text(
        '#!/bin/sh\n[ "$1" = version ] && echo \'{"Client":{"Version":"20.10.24"},"Server":{"Version":"20.10.24"}}\' '
        '&& exit\necho "Error: No such image: $3" >&2\nexit 1\n'
    )
    docker.chmod(0o755)
    result = CliRunner(env={"PATH": str(tmp_path)}).invoke(main, ["sbom", "smollm:latest"])
    assert result.exit_code == 1
    assert "no image smollm:latest on this machine" in result.stderr
    assert "No such image: smollm:latest" in result.stderr
