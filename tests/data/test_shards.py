"""Shards against the tar format: files written by `tarfile` alone, and what can be wrong with them."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from threedgen.core.errors import ConfigError, ThreedgenError
from threedgen.data.shards import ABOUT, Shards, is_shards, key_of, read_about, shard_paths, write_shard


def write_tar(path, files, format_number=tarfile.PAX_FORMAT):
    with tarfile.open(path, "w", format=format_number) as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type = tarfile.DIRTYPE
            else:
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content or b""))


def contents(shards):
    return [(s.key, {file: s.read(file) for file in s.files}) for s in (shards[i] for i in range(len(shards)))]


@pytest.mark.parametrize("format_number", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_samples_are_what_is_equal_up_to_the_first_dot(tmp_path, format_number):
    long = "d" * 60 + "/" + "k" * 60  # above 100 letters: extra headers before the file's own
    files = [("__about__", b"{}"), ("a.json", b"1"), ("a.000.PNG", b"22"), ("dir.x", None), ("dir.x/b.txt", b"")]
    files += [(f"{long}.txt", b"long"), (f"{long}.cls", b"5"), ("noextension", b"?"), (".hidden", b"?")]
    write_tar(tmp_path / "0.tar", files, format_number)
    write_tar(tmp_path / "1.tar", [("a.txt", b"x" * 3000)], format_number)
    write_tar(tmp_path / "2.tar", [("__about__", b"{}")], format_number)
    expected = [("a", {"json": b"1", "000.png": b"22"}), ("dir.x/b", {"txt": b""})]
    expected += [(long, {"txt": b"long", "cls": b"5"}), ("a", {"txt": b"x" * 3000})]
    paths = shard_paths(str(tmp_path))
    assert contents(Shards(paths)) == expected
    assert len(list(tmp_path.glob("*.index"))) == 3
    assert contents(Shards(paths)) == expected  # by the list that was kept
    with pytest.raises(ThreedgenError, match="a: has no txt"):
        Shards(paths)[0].read("txt")


def test_the_kept_list_is_used_and_made_again_when_the_shard_changes(tmp_path):
    path = tmp_path / "0.tar"
    write_tar(path, [("a.txt", b"1"), ("b.txt", b"2")])
    assert len(Shards([path])) == 2
    kept = np.fromfile(tmp_path / "0.tar.index", "<i8")
    kept[[1, 3]] = kept[2], kept[2]  # one sample less: seen only if the list is read
    np.delete(kept, 2).tofile(tmp_path / "0.tar.index")
    assert len(Shards([path])) == 1
    write_tar(path, [(f"{i}.txt", b"") for i in range(30)])
    assert len(Shards([path])) == 30
    write_tar(path, [(f"{i}.txt", b"") for i in range(90)])
    os.utime(path, (0, 0))  # a copy that looks older: its size tells
    assert len(Shards([path])) == 90


def test_what_is_written_reads_with_tarfile_and_appears_only_when_whole(tmp_path):
    path = tmp_path / "0.tar"
    name = "toys/50%.v2"
    assert key_of(name) == "toys/50%25%2Ev2"
    with write_shard(path) as shard:
        shard.add_file(ABOUT, b"about")
        shard.add(key_of(name), [("000.png", b"p"), ("json", b"{}")])
        assert not path.exists()
    with tarfile.open(path) as tar:
        assert tar.getnames() == [ABOUT, "toys/50%25%2Ev2.000.png", "toys/50%25%2Ev2.json"]
    assert contents(Shards([path])) == [("toys/50%25%2Ev2", {"000.png": b"p", "json": b"{}"})]
    assert read_about(path) == b"about"
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), write_shard(path) as shard:
        shard.add("b", [("txt", b"2")])
        raise KeyboardInterrupt
    assert path.read_bytes() == before and {p.name for p in tmp_path.iterdir()} == {"0.tar", "0.tar.index"}
    write_tar(tmp_path / "other.tar", [("a.txt", b"")])
    assert read_about(tmp_path / "other.tar") is None
    (tmp_path / "thesis.tar").write_text("years of work")
    assert read_about(tmp_path / "thesis.tar") is None


def test_patterns_and_ranges(tmp_path):
    for i in (8, 9, 10, 11):
        write_tar(tmp_path / f"s-{i:03d}.tar", [("a.txt", b"")])
    names = [f"s-{i:03d}.tar" for i in (8, 9, 10, 11)]
    for where in ("", "/*.tar", "/s-{008..011}.tar", "/s-*.tar"):
        assert is_shards(f"{tmp_path}{where}") and [p.name for p in shard_paths(f"{tmp_path}{where}")] == names
    assert [p.name for p in shard_paths(f"{tmp_path}/s-{{009..010}}.tar")] == names[1:3]
    assert shard_paths(str(tmp_path / "s-008.tar")) == [tmp_path / "s-008.tar"]
    with pytest.raises(ConfigError, match=r"s-012.tar is not there \(2 of 4 shards are missing\)"):
        shard_paths(f"{tmp_path}/s-{{010..013}}.tar")
    with pytest.raises(ConfigError, match="there are no shards"):
        shard_paths(f"{tmp_path}/t-*.tar")
    (tmp_path / "folder").mkdir()
    assert not is_shards(str(tmp_path / "folder")) and not is_shards(str(tmp_path / "none"))


def test_a_shard_that_is_cut_off_anywhere_is_refused(tmp_path):
    """Two samples of one block each, header and content: 4 blocks of 512, then zeros."""
    write_tar(tmp_path / "whole.tar", [("a.txt", b"1" * 512), ("b.txt", b"2" * 512)], tarfile.USTAR_FORMAT)
    whole = (tmp_path / "whole.tar").read_bytes()
    assert len(Shards([tmp_path / "whole.tar"])) == 2
    for length in (0, 300, 512, 700, 1024, 1300, 1536, 2000, 2048, 2300):
        path = tmp_path / f"{length}.tar"
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match="cut off") as caught:
            Shards([path])
        assert str(path) in str(caught.value) and not path.with_name(f"{length}.tar.index").exists()
    (tmp_path / "damaged.tar").write_bytes(whole[:1024] + b"?" * 512 + whole[1536:])
    with pytest.raises(ConfigError, match="cut off or damaged at byte 1024"):
        Shards([tmp_path / "damaged.tar"])


def test_what_is_no_plain_tar_is_refused(tmp_path):
    write_tar(tmp_path / "a.tar", [("a.txt", b"1")])
    packed = tmp_path / "b.tar"
    packed.write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    with pytest.raises(ConfigError, match=r"b.tar is compressed \(gzip\).*unpack"):
        Shards([packed])
    (tmp_path / "c.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(ConfigError, match=r"c\.tar is no tar file"):
        Shards([tmp_path / "c.tar"])
    with pytest.raises(ConfigError, match=r"d\.tar cannot be read"):
        Shards([Path(tmp_path / "d.tar")])
