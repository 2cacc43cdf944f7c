"""What the documentation shows is what there is."""

import re
from pathlib import Path

import pytest

from packager.cli import COMMANDS
from packager.config.translation import ROWS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.mark.parametrize("example", sorted(ROOT.glob("examples/layers/*.py")), ids=lambda path: path.name)
def test_the_layers_shown_are_those_that_are_tested(example: Path) -> None:
    assert example.read_text() in (DOCS / "01-engine.md").read_text()
    assert len(example.read_text().splitlines()) < 15


def test_every_field_of_trt_llm_has_its_row() -> None:
    shown = set(re.findall(r"^\| `([^`]+)` \|", (DOCS / "04-trt-llm.md").read_text(), re.MULTILINE))
    assert {row.path for row in ROWS} <= shown


def test_every_command_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    assert [name for name in COMMANDS if f"trtpack {name}" not in text] == []
