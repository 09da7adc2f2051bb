from __future__ import annotations

import io
import re
import threading

import pytest

from xchunk.formatting.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


def run(progress: Progress, boxes: int = 20, name: str = "t2m") -> None:
    with progress:
        for i in range(1, boxes + 1):
            progress.update(name=name, stage="read", done=i, total=boxes, nbytes=1_000_000)


def test_a_log_gets_a_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    run(Progress())
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("xchunk: t2m, source → scratch: 1 of 20 boxes, 1.00 MB")
    assert re.search("20 of 20 boxes, 20.0 MB, done in", lines[1])


def test_a_log_gets_more_lines_as_time_goes_on() -> None:
    file = io.StringIO()
    run(Progress(file=file, every=0.0))
    assert len(file.getvalue().splitlines()) == 20


def test_a_terminal_gets_a_bar(terminal: Terminal) -> None:
    run(Progress(file=terminal))
    shown = terminal.getvalue()
    assert "20/20 boxes" in shown
    assert "20.0 MB" in shown
    assert "xchunk:" not in shown


def test_small_arrays_are_not_worth_a_line(terminal: Terminal) -> None:
    file = io.StringIO()
    for progress in (Progress(file=file), Progress(file=terminal)):
        run(progress, boxes=1, name="time")
    assert "time" not in file.getvalue() + terminal.getvalue()


def test_disabled_it_says_nothing(terminal: Terminal) -> None:
    run(Progress(enabled=False, file=terminal))
    assert terminal.getvalue() == ""


def test_many_threads_may_report(terminal: Terminal) -> None:
    file = io.StringIO()
    for progress in (Progress(file=file, every=0.0), Progress(file=terminal)):
        counter, lock = iter(range(1, 201)), threading.Lock()

        def work(progress: Progress = progress, counter=counter, lock=lock) -> None:
            for _ in range(50):
                with lock:
                    done = next(counter)
                progress.update(name="a", stage="write", done=done, total=200, nbytes=10)

        with progress:
            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert "200 of 200 boxes, 2.00 kB, done" in file.getvalue()
    assert "200/200 boxes" in terminal.getvalue()


def test_an_error_takes_the_bar_down(terminal: Terminal) -> None:
    progress = Progress(file=terminal)

    def fail() -> None:
        with progress:
            progress.update(name="a", stage="read", done=1, total=9, nbytes=1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert progress._view is None


def test_names_cannot_steer_the_terminal(terminal: Terminal) -> None:
    run(Progress(file=terminal), name="[red]\x1b[2Jx")
    assert "\x1b[2J" not in terminal.getvalue()
    assert "[red]" in terminal.getvalue()
