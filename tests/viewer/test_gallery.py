"""How often a batch's page is written; what is on it, see tests/faults/test_batches.py."""

from itertools import pairwise

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
