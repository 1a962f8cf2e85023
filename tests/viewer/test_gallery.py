"""A batch's page of views, and how often it is written; more of what is on it, see tests/faults/test_batches.py."""

import base64
import io
import re
from html import unescape
from itertools import pairwise
from urllib.parse import unquote

import numpy as np
from PIL import Image

from threedgen.config.schema import Config
from threedgen.runs.batch import Job, Outcome
from threedgen.viewer import gallery
from threedgen.viewer.gallery import Gallery


def test_a_large_page_leaves_time_for_the_batch(tmp_path, monkeypatch):
    """Writing takes eight seconds here, and a run ends each second."""
    now, written = [0.0], []

    def write(path, text):
        if path.name == "index.html":
            now[0] += 8.0
            written.append(now[0])

    monkeypatch.setattr(gallery.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(gallery, "write_text_atomically", write)
    page = Gallery(tmp_path, "many", [Job(Config(prompt="a cat"), tmp_path)] * 100)
    for number in range(20):
        page.take(number, Outcome("a cat", 1.0, {}))
        now[0] += 1.0
    assert all(later - earlier - 8.0 >= 5.0 for earlier, later in pairwise(written))
    assert len(written) == 4


def test_views_turn_in_their_order_and_links_lead_to_them(tmp_path):
    run = tmp_path / "a run #1"
    run.mkdir()
    results = {}
    for i in range(12):
        results[f"view {i}"] = run / f"view-{i}.png"
        Image.new("L", (16, 16), 20 * i).save(results[f"view {i}"])
    page = Gallery(tmp_path / "batch", "views", [Job(Config(prompt="a cat"), run)])
    page.take(0, Outcome("a cat", 1.0, dict(sorted(results.items()))))
    text = (tmp_path / "batch/index.html").read_text("utf-8")
    (count, strip), (link,) = (
        re.search(r"--n:(\d+);background-image:url\(data:image/jpeg;base64,([^)]+)\)", text).groups(),
        re.findall(r'href="([^"]+)"', text),
    )
    shades = np.asarray(Image.open(io.BytesIO(base64.b64decode(strip))).convert("L"), float)
    assert count == "12" and np.abs(shades.reshape(200, 12, 200).mean((0, 2)) - 20 * np.arange(12)).max() < 2
    assert not {" ", "#"} & {*link}
    assert (tmp_path / "batch" / unquote(unescape(link))).resolve() == results["view 0"]


def test_a_file_that_somebody_has_damaged_costs_its_picture_alone(tmp_path, capsys):
    (tmp_path / "report.json").write_text("{")
    page = Gallery(tmp_path, "two", [Job(Config(prompt=name), tmp_path) for name in "ab"])
    page.take(0, Outcome("a", 1.0, {"report": tmp_path / "report.json"}))
    page.take(1, Outcome("b", 1.0, {}))
    assert capsys.readouterr().err.startswith("warning: a: no picture on the page: ")
    assert (tmp_path / "index.html").read_text("utf-8").count('<article class="card done">') == 2
