"""Long work tells how it goes, on a terminal and in a log."""

import io

import pytest
from rich.console import Console

from packager import progress


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    written = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=written, width=100))
    return written


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(shown: io.StringIO, clock: list[float]) -> None:
    with progress.task("Writing", 100) as advance:
        for second in range(40):
            clock[0] = float(second)
            advance(2)
    assert shown.getvalue().splitlines() == ["  Writing 32%", "  Writing 62%", "✓ Writing 39.0 s"]


def test_without_a_total_only_the_end_is_told(shown: io.StringIO, clock: list[float]) -> None:
    with progress.task("Waiting") as advance:
        clock[0] = 100.0
        advance(1)
    assert shown.getvalue().splitlines() == ["✓ Waiting 100.0 s"]


def test_what_failed_is_not_told_as_done(shown: io.StringIO) -> None:
    with pytest.raises(RuntimeError), progress.task("Writing", 1):
        raise RuntimeError
    assert "✓" not in shown.getvalue()


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=written, force_terminal=True, width=100))
    with progress.task("Writing", 4) as advance:
        advance(1, "middle.3")
        advance(3)
    assert "middle.3" in written.getvalue()
    assert "100%" in written.getvalue()
    assert "✓ Writing" in written.getvalue().replace("\x1b[32m", "").replace("\x1b[0m", "")


def test_a_note_is_printed_as_it_is(shown: io.StringIO) -> None:
    progress.note("see [docs]")
    assert shown.getvalue() == "see [docs]\n"
