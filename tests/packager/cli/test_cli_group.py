"""The group: help, version, and how every kind of error is told."""

import subprocess
import sys
from collections.abc import Callable

import click
import pytest
from click.testing import CliRunner, Result

import packager.cli
from packager.cli import COMMANDS, main
from packager.errors import ConfigError, TrtpackError
from runtime.errors import EngineError
from runtime.model.families import UnsupportedModelError


def trtpack(*args: str) -> Result:
    return CliRunner().invoke(main, args, prog_name="trtpack")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `trtpack render` raise the given error."""

    def install(error: BaseException) -> None:
        @click.command()
        def command() -> None:
            raise error

        monkeypatch.setattr("packager.cli.render.command", command)

    return install


def test_help_names_every_command() -> None:
    result = trtpack("--help")
    assert result.exit_code == 0
    assert all(f"  {name} " in result.output and line in result.output for name, line in COMMANDS.items())


def test_help_imports_no_command_and_nothing_heavy() -> None:
    code = (
        "import sys\nfrom packager.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: code = end.code\n"
        "print(code, [name for name in sys.modules if name in ('torch', 'transformers', 'pydantic', 'yaml', 'httpx')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_an_example(name: str) -> None:
    result = trtpack(name, "--help")
    assert result.exit_code == 0
    assert f"Usage: trtpack {name}" in result.output
    assert f"Example:\n    trtpack {name}" in result.output


def test_version() -> None:
    assert trtpack("--version").output.startswith("trtpack 0.")


@pytest.mark.parametrize(
    ("args", "lines"),
    [
        (["rendr"], ["error: no command 'rendr'; did you mean 'render'?", "  See: trtpack --help"]),
        (["zzz"], [f"error: no command 'zzz'; known: {', '.join(COMMANDS)}", "  See: trtpack --help"]),
        (["init"], ["error: Missing argument 'DIR'.", "  See: trtpack init --help"]),
        (["init", "a", "b"], ["error: Got unexpected extra argument (b)", "  See: trtpack init --help"]),
    ],
)
def test_wrong_usage_is_two_lines_and_exit_2(args: list[str], lines: list[str]) -> None:
    result = trtpack(*args)
    assert result.exit_code == 2
    assert result.stderr.splitlines() == lines


def test_an_unknown_option_is_two_lines_and_exit_2() -> None:
    result = trtpack("--zzz")
    first, second = result.stderr.splitlines()
    assert (result.exit_code, "--zzz" in first, second) == (2, True, "  See: trtpack --help")


@pytest.mark.parametrize(
    ("error", "lines", "code"),
    [
        (TrtpackError("it broke", "Mend it."), ["error: it broke", "  Mend it."], 1),
        (TrtpackError("it broke"), ["error: it broke"], 1),
        (ConfigError("a:1: x\na:2: y"), ["error: a:1: x", "error: a:2: y"], 2),
        (EngineError("no engine"), ["error: no engine"], 1),
        (UnsupportedModelError("T5 is not supported"), ["error: T5 is not supported"], 1),
        (PermissionError(13, "Permission denied", "/x"), ["error: /x: Permission denied"], 1),
        (OSError(28, "No space left on device"), ["error: No space left on device"], 1),
        (KeyboardInterrupt(), ["", "interrupted"], 130),
        (
            ModuleNotFoundError("no", name="gguf"),
            ["error: gguf is not installed", "  Install it with: pip install 'trtpack[package]'"],
            1,
        ),
        (
            ZeroDivisionError("oh\nno"),
            ["error: ZeroDivisionError: oh (a bug in trtpack)", "  See where with: trtpack --debug ..."],
            1,
        ),
    ],
)
def test_every_error_is_a_line_or_two(
    failing: Callable[[BaseException], None], error: BaseException, lines: list[str], code: int
) -> None:
    failing(error)
    result = trtpack("render")
    assert (result.stderr.splitlines(), result.exit_code) == (lines, code)


def test_debug_shows_the_traceback_and_keeps_the_exit_code(failing: Callable[[BaseException], None]) -> None:
    failing(ConfigError("it broke"))
    result = trtpack("--debug", "render")
    assert result.exit_code == 2
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.endswith("error: it broke\n")


def test_the_console_script_exits_with_the_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trtpack", "rendr"])
    with pytest.raises(SystemExit) as ended:
        packager.cli.console()
    assert ended.value.code == 2
    assert "did you mean 'render'" in capsys.readouterr().err
