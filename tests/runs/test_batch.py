import pytest

from threedgen.core.errors import ConfigError, EmptyMeshError
from threedgen.runs.batch import Outcome, read_prompts, run_batch, summary


def test_prompts_are_taken_as_they_stand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_bytes(
        "\ufeff# comment\r\n\r\na red cat\r\n  # comment too\n   \na #1 cat: ${x} \n猫 \u2028 😀\nlast".encode()
    )
    assert read_prompts("list.txt") == ["a red cat", "a #1 cat: ${x} ", "猫 \u2028 😀", "last"]


def test_lookup_as_given_then_in_custom_prompts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "custom_prompts").mkdir()
    (tmp_path / "custom_prompts" / "list.txt").write_text("there\n")
    assert read_prompts("list.txt") == ["there"]
    (tmp_path / "list.txt").write_text("here\n")
    assert read_prompts("list.txt") == ["here"]
    assert read_prompts(str(tmp_path / "custom_prompts" / "list.txt")) == ["there"]
    assert len(read_prompts("demo.txt")) >= 2  # the shipped one, from anywhere


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no prompt"),
        (b"# only\n\n", "holds no prompt"),
        (b"a \xff cat", "not UTF-8"),
        (None, "no such file"),
    ],
)
def test_unusable_files(content, message, tmp_path):
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_prompts(str(path))
    assert "\n" not in str(caught.value)


def test_a_failing_prompt_does_not_stop_the_rest(tmp_path, capsys):
    def run_one(prompt):
        if prompt == "bad":
            raise ZeroDivisionError("oops")
        if prompt == "empty":
            raise EmptyMeshError("no surface")
        return {"glb": tmp_path / f"{prompt}.glb"}

    outcomes = run_batch(["first", "bad", "empty", "last"], run_one)
    assert [outcome.results is not None for outcome in outcomes] == [True, False, False, True]
    errors = capsys.readouterr().err
    assert "ZeroDivisionError: oops" in errors and "Traceback" in errors
    assert "error: no surface" in errors
    table = summary(outcomes).splitlines()
    assert [line.split()[0] for line in table[:-1]] == ["done", "failed", "failed", "done"]
    assert table[0].endswith("first.glb")
    assert table[2].endswith("no surface")
    assert table[-1] == "2 of 4 prompts done, 2 failed"


def test_long_prompts_and_messages_take_one_line_of_the_summary():
    lines = summary([Outcome("a" * 49, 65.0, None, "first\nsecond"), Outcome("b" * 48, 1.0, {})]).splitlines()
    assert lines[0] == f"failed     1:05  {'a' * 45}...  first"
    assert lines[1] == f"done       0:01  {'b' * 48}"


def test_ctrl_c_stops_the_batch():
    def run_one(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_batch(["a", "b"], run_one)
