"""The DreamBooth benchmark keeps figures by what they are of, and says of how many they are."""

import sys

import pytest

from threedgen.tasks.evaluation.jobs import Outcome


@pytest.fixture(scope="module")
def benchmark(load_benchmark):
    return load_benchmark("dreambooth")


def test_figures_of_other_settings_are_not_taken_for_these(benchmark, tmp_path, monkeypatch):
    asked = []

    def outcomes(do, jobs, config):
        asked.append({job.result for job in jobs})
        return [Outcome(job, {"subject": job.subject.name, "condition": job.condition}) for job in jobs]

    monkeypatch.setattr(benchmark, "outcomes", outcomes)
    monkeypatch.setattr(benchmark, "take_photos", lambda subject, folder: None)
    monkeypatch.setattr(benchmark, "sheet", lambda jobs: benchmark.Image.new("RGB", (1, 1)))
    for words in ([], ["dreambooth.lr=1e-4"], ["--sds-steps", "0"], []):
        monkeypatch.setattr(sys, "argv", ["dreambooth.py", "--output", str(tmp_path), "--subjects", "1", *words])
        assert benchmark.main() == 0
    assert asked[3] == asked[0] and not asked[0] & asked[1] and not asked[0] & asked[2]


def test_a_sum_over_subjects_says_of_how_many_sets_it_is(benchmark):
    scores = [{"subject": s.name, "condition": "tuned", "views_janus": 2, "scene_janus": 1} for s in benchmark.SUBJECTS]
    *single, mean = (line for line in benchmark.table(scores).splitlines() if "| tuned |" in line)
    assert "| 10 of 20 |" in mean and "| 5 of 5 |" in mean
    assert len(single) == 5 and all("| 2 |" in line and "| 1 |" in line for line in single)
