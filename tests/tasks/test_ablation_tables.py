"""The maths of ablation tables against values worked out by hand."""

import json
from dataclasses import replace

import pytest

from threedgen.config.schedules import Schedule
from threedgen.tasks.evaluation.plots import pareto_front
from threedgen.tasks.evaluation.tables import (
    Claim,
    Column,
    Condition,
    Measured,
    Table,
    as_json,
    difference_of,
    markdown,
    mean_of,
    verdict,
)

CLAIM = Claim("Said.", "psnr", ("four", "two", "one"))
TABLE = Table(
    "views",
    "Views",
    "What this is.",
    (Condition("four", "4 views"), Condition("two", "2 views"), Condition("one", "1 view", {"a.b": Schedule(1, 2)})),
    (Column("psnr", "PSNR dB"), Column("janus", "Janus", percent=True), Column("sat", "sat", 3, truth="true_sat")),
    (CLAIM,),
)


def figures(psnr, janus=None, sat=0.5):
    return {"psnr": psnr, "janus": janus, "sat": sat, "true_sat": 0.25}


SCORES = {
    "four": {"p": figures(20.0, 0.0), "q": figures(24.0), "r": figures(28.0, 0.0)},
    "two": {"p": figures(19.0, 0.0), "q": figures(23.5), "r": figures(26.0, 1.0)},
    "one": {"p": figures(15.0, 1.0), "r": figures(16.0, 1.0)},  # q failed
}


def test_means_and_paired_differences():
    assert mean_of(SCORES, "four", "psnr").mean == 24.0
    janus = mean_of(SCORES, "two", "janus")
    assert janus.mean == 0.5 and janus.count == 2  # q has no front
    assert difference_of(SCORES, "two", "four", "psnr").mean == pytest.approx((-1 - 0.5 - 2) / 3)
    one = difference_of(SCORES, "one", "four", "psnr")
    assert one.mean == pytest.approx((-5 - 12) / 2) and one.count == 2  # over what both have
    assert mean_of(SCORES, "four", "nothing") is None and difference_of(SCORES, "absent", "four", "psnr") is None


def test_markdown_shows_means_intervals_counts_and_the_truth():
    lines = markdown(TABLE, Measured(SCORES, {}), ["views.png"]).splitlines()
    four, two, one, truth = (next(line for line in lines if line.startswith(f"| {name} ")) for name in LABELS)
    assert four.startswith("| 4 views | 24.00 [") and "| 0 [0, 0] (2) |" in four and "0.500 [0.500, 0.500]" in four
    assert "| 50 [" in two and one.startswith("| 1 view | 15.50 [15.00, 16.00] (2) |")
    assert truth == "| truth |  |  | 0.250 |"
    second = lines[lines.index(one) + 1 :]
    assert not any(line.startswith("| 4 views") for line in second)
    two = next(line for line in second if line.startswith("| 2 views"))
    assert two.startswith("| 2 views | **-1.17 [-2.00, -") and "]** | +50 [" in two
    assert "+0.000 [+0.000, +0.000]" in two
    assert lines[-1] == "![Views](views.png)"


def test_prompts_of_another_kind_leave_the_count_alone():
    mixed = {name: {**SCORES["four"], "other": {"pattern": 1.0}} for name in ("four", "two", "one")}
    assert "| 4 views | 24.00 [" in markdown(TABLE, Measured(mixed, {})) and "] (3)" not in markdown(
        TABLE, Measured(mixed, {})
    )


LABELS = ("4 views", "2 views", "1 view", "truth")


def test_figures_of_whole_sets_stand_beside_the_means_and_have_no_intervals():
    table = replace(TABLE, set_columns=(Column("far", "distance", 3),))
    measured = Measured(SCORES, {}, of_sets={"four": {"far": 0.125}, "two": {"far": 2.0}})
    head, _, four, two, one, *_ = markdown(table, measured).splitlines()[4:]
    assert head.endswith("| distance |")
    assert [line.rsplit("|", 2)[1] for line in (four, two, one)] == [" 0.125 ", " 2.000 ", " – "]
    assert "distance" not in "".join(markdown(table, measured).splitlines()[10:])  # no differences of it
    assert as_json(table, measured)["conditions"]["two"]["of_set"] == {"far": 2.0}


def test_the_front_of_a_plot_is_what_nothing_beats():
    points = [(1.0, 5.0), (2.0, 4.0), (2.0, 3.0), (3.0, 4.0), (4.0, 1.0), (0.5, 5.0), (4.0, 0.5)]
    assert pareto_front(points) == [(1.0, 5.0), (3.0, 4.0), (4.0, 1.0)]
    assert pareto_front([(1.0, 1.0), (1.0, 1.0)]) == [(1.0, 1.0), (1.0, 1.0)]  # alike: neither beats the other


def test_a_condition_without_scores_is_told():
    without = {**SCORES, "two": {}}
    assert "| 2 views | – | – | – |" in markdown(TABLE, Measured(without, {}))
    assert verdict(CLAIM, TABLE, without) == "Said. Not measured: 2 views failed."


def test_verdicts():
    sure = verdict(CLAIM, TABLE, SCORES)
    assert sure == (
        "Said. Measured (PSNR dB): 4 views 24.00, 2 views 22.83, 1 view 15.50: so, each step's interval above 0."
    )
    unsure = {**SCORES, "two": {"p": figures(20.5), "q": figures(23.0), "r": figures(27.0)}}
    assert verdict(CLAIM, TABLE, unsure).endswith("15.50: within chance for 4 views / 2 views.")
    wrong = {**SCORES, "two": {"p": figures(21.0), "q": figures(26.0), "r": figures(29.0)}}
    assert "2 views 25.33, 4 views 24.00, 1 view 15.50: not so for 4 views / 2 views." in verdict(CLAIM, TABLE, wrong)
    equal = verdict(replace(CLAIM, figure="sat"), TABLE, SCORES)
    assert "no difference for 4 views / 2 views, 2 views / 1 view" in equal


def test_a_single_prompt_is_no_proof():
    lone = {name: {"p": prompts["p"]} for name, prompts in SCORES.items()}
    assert "within chance for 4 views / 2 views, 2 views / 1 view" in verdict(CLAIM, TABLE, lone)


def test_json_has_everything_as_plain_values():
    lone = {**SCORES, "one": {"p": figures(15.0)}}  # one value has no interval: nan
    found = json.loads(json.dumps(as_json(TABLE, Measured(lone, {})), allow_nan=False))
    one = found["conditions"]["one"]
    assert one["settings"]["a.b"]["end"] == 2 and one["prompts"] == {"p": figures(15.0)}
    assert one["means"]["psnr"] == {"mean": 15.0, "low": None, "high": None, "count": 1}
    assert one["differences"]["psnr"]["mean"] == -5 and one["means"]["janus"] is None
    assert found["baseline"] == "four" and len(found["claims"]) == 1
