import json
import math
import os
import time

from threedgen.runs.events import EventLog, read_events


def test_one_json_object_a_line_readable_at_once(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventLog(path) as events:
        before = time.time()
        events.write("step", step=3, loss=0.25, text="a\nb 😀", loss_by_view=[1.0, math.nan])
        (line,) = path.read_text("utf-8").splitlines()  # flushed before close
        record = json.loads(line)
    assert abs(record.pop("time") - before) < 5
    assert record == {"event": "step", "step": 3, "loss": 0.25, "text": "a\nb 😀", "loss_by_view": [1.0, "nan"]}


def test_infinities_stay_json(tmp_path):
    with EventLog(tmp_path / "events.jsonl") as events:
        events.write("step", loss=math.inf, low=-math.inf)
    (record,) = read_events(tmp_path / "events.jsonl")
    assert (record["loss"], record["low"]) == ("inf", "-inf")


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "whole"}\n{"event": "ha')
    assert [event["event"] for event in read_events(path)] == ["whole"]
    with EventLog(path) as events:
        events.write("next")
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["whole", "next"]


def test_a_files_name_that_is_no_utf8_is_told(tmp_path):
    name = os.fsdecode(b"pictures/gr\xfcn.png")
    with EventLog(tmp_path / "events.jsonl") as events:
        events.write("stopped", message=f"{name} ü")
    assert read_events(tmp_path / "events.jsonl")[0]["message"] == f"{name} ü"
