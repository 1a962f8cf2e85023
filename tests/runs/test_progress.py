import io
import itertools

import pytest

from threedgen.runs.progress import ProgressLine, StepReport, format_seconds


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(stream, seconds_per_step, num_steps=100):
    now = [0.0]
    progress = ProgressLine("optimise", stream, clock=lambda: now[0])
    for step in range(1, num_steps + 1):
        now[0] += seconds_per_step
        progress.update(StepReport(step, num_steps, loss=1 / step, fields={"psnr": float(step)}))
    progress.close()
    return stream.getvalue()


def test_a_log_file_gets_a_line_every_ten_seconds_and_the_last():
    lines = run(io.StringIO(), seconds_per_step=1.0).splitlines()
    assert [line.split()[1] for line in lines] == [f"{n}/100" for n in (*range(1, 100, 10), 100)]
    assert lines[1] == "optimise 11/100  11%  loss 0.09091  psnr 11  ETA 1:29"
    assert lines[-1].endswith("ETA 0:00")
    assert "ETA" not in lines[0]  # no pace is known yet


def test_a_terminal_gets_one_line_redrawn():
    text = run(Terminal(), seconds_per_step=1.0)
    assert text.count("\n") == 1
    assert text.endswith("\n")
    redrawn = text.strip("\r\n").split("\r")
    assert len(redrawn) == 100
    # a shorter line wipes the longer one before it
    assert all(len(after) >= len(before.rstrip()) for before, after in itertools.pairwise(redrawn))


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (90, "optimise 90/200  45%  loss 512.3  grad_norm 35.91  t 612  opacity 0.1833  ETA 1:50"),
        (80, "optimise 90/200  45%  loss 512.3  grad_norm 35.91  t 612  ETA 1:50"),
        (45, "optimise 90/200  45%  loss 512.3  ETA 1:50"),
        (30, "optimise 90/200  45%  loss 51"),
    ],
)
def test_a_terminal_gets_no_line_that_wraps(monkeypatch, columns, line):
    monkeypatch.setenv("COLUMNS", f"{columns}")
    stream = Terminal()
    progress = ProgressLine("optimise", stream, clock=iter([0.0, 1.0]).__next__)
    for step in (89, 90):
        progress.update(StepReport(step, 200, 512.3, {"grad_norm": 35.91, "t": 612, "opacity": 0.1833}))
    assert stream.getvalue().split("\r")[-1].rstrip() == line


def test_the_eta_follows_a_pace_that_changes():
    progress = ProgressLine("optimise", io.StringIO(), clock=iter([*range(100), *range(104, 504, 4)]).__next__)
    for step in range(1, 201):
        report = StepReport(step, 1200, loss=0.0)
        progress.update(report)
    assert progress.remaining_seconds(report) == pytest.approx(1000 * 4.0)  # the slow pace, not the mean of both


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (271, "4:31"), (3599.7, "1:00:00"), (7509, "2:05:09")],
)
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text
