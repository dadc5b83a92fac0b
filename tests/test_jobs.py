"""Which file becomes which, and which process does it: decided by names alone."""

from __future__ import annotations

import glob
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conversions import Identity, fill, last_rows, noise, release_of, tree
from translate import files
from translate.convert import Shard, convert
from translate.convert.jobs import Naming, plan_jobs
from translate.convert.saving import remove_leftovers
from translate.errors import DataError, UsageError
from translate.images.reading import ImageConfig


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def outputs(source: Path, out: Path, naming: Naming | None = None) -> dict[str, str]:
    jobs, _ = plan_jobs(source, out, naming or Naming(ImageConfig()))
    assert [str(job.output) for job in jobs] == [str(out / job.output_name) for job in jobs]
    return {str(job.source): job.output_name for job in jobs}


# ---- globs


@pytest.mark.parametrize("pattern", ["*.png", "*/*.png", "**/*.png", "**/x.*", "a/**", "a/**/*.png", "**/b/**/*.jpg",
                                     "?/x.png", "[ab]/*", "a*/**/[!x]*.png", "**", "**/**/x.png", "a/b/x.png"])
def test_a_glob_matches_what_a_shell_s_does(tmp_path: Path, pattern: str) -> None:
    """Python's glob module says the same; it would follow a loop of links for ever."""
    touch(tmp_path, "x.png", "y.PNG", "z.jpg", "a/x.png", "a/y.png", "a/b/x.png", "a/b/c/z.jpg", "a/b/c/y.png",
          "ab/x.png", "ab/b/y.png", "b/x.jpg", ".hidden/x.png", "a/.x.png")
    found = glob.glob(str(tmp_path / pattern), recursive=True)  # noqa: PTH207 (pathlib's own takes hidden files)
    expected = {path for path in found if Path(path).is_file()}
    assert expected and outputs(tmp_path / pattern, Path("/out")).keys() == expected


def test_what_a_glob_matches_keeps_its_tree_below_the_fixed_part(tmp_path: Path) -> None:
    fill(tmp_path / "in/deep", 3)
    fill(tmp_path / "in/other", 3)
    touch(tmp_path, "in/deep/notes.txt", "in/notes.txt")
    (tmp_path / "in/deep/loop").symlink_to(tmp_path / "in")
    summary = convert(tmp_path / "in/de*/**/*", tmp_path / "out", release_of(Identity()))
    assert (summary.exit_code, summary.skipped) == (0, ["deep/notes.txt"])
    names = {"deep/000.png", "deep/002.png", "deep/inner/001.png"}
    assert names <= tree(tmp_path / "out").keys()
    assert convert(tmp_path / "in/deep/0*.png", tmp_path / "few", release_of(Identity())).converted == 2
    assert tree(tmp_path / "few").keys() == {"000.png", "002.png"}


def test_a_glob_that_matches_nothing_or_its_own_folder_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "in", 2)
    for pattern in ("*.jpg", "none/**", "../nowhere/*"):
        with pytest.raises(DataError, match="matches no images"):
            plan_jobs(tmp_path / "in" / pattern, tmp_path / "out", Naming(ImageConfig()))
    with pytest.raises(UsageError, match="is the source itself"):
        plan_jobs(tmp_path / "in/*.png", tmp_path / "in", Naming(ImageConfig()))


def test_a_name_with_brackets_that_exists_is_no_glob(tmp_path: Path) -> None:
    touch(tmp_path, "photos [1]/a[b].png", "photos 1/ab.png")
    assert outputs(tmp_path / "photos [1]", Path("/out")) == {str(tmp_path / "photos [1]/a[b].png"): "a[b].png"}
    assert list(outputs(tmp_path / "photos [1]/a[b].png", Path("/out")).values()) == ["a[b].png"]


# ---- formats


def test_a_format_is_that_of_every_output_and_names_stay_distinct(tmp_path: Path) -> None:
    touch(tmp_path, "x.png", "x.jpg", "x.gif", "y.JPEG", "z.tif", "inner/x.webp")
    names = outputs(tmp_path, Path("/out"), Naming(ImageConfig(), "jpg"))
    assert {str(Path(source).relative_to(tmp_path)): name for source, name in names.items()} == {
        "x.jpg": "x.jpg", "x.gif": "x.gif.jpg", "x.png": "x.png.jpg", "y.JPEG": "y.JPEG", "z.tif": "z.jpg",
        "inner/x.webp": "inner/x.jpg"}


@pytest.mark.parametrize(("file_format", "kind"), [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP"), ("tif", "TIFF")])
def test_outputs_are_of_the_format_asked_for(tmp_path: Path, file_format: str, kind: str) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(noise(8, 9)).save(tmp_path / "in/a.png")
    Image.fromarray(noise(8, 9)).save(tmp_path / "in/b.jpg")
    summary = convert(tmp_path / "in", tmp_path / "out", release_of(Identity()), file_format=file_format)  # type: ignore[arg-type]
    assert summary.converted == 2
    for name in tree(tmp_path / "out"):
        with Image.open(tmp_path / "out" / name) as image:
            assert (image.format, image.size) == (kind, (9, 8)) and Path(name).suffix == f".{file_format}"


def test_a_format_or_quality_that_cannot_be_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "in", 1)
    for words, bits, options in (
            (r"format jpg: cannot hold the output \(3 channels, bits: 16\); take png", 16, {"file_format": "jpg"}),
            ("quality 0: expected 1 to 100", 8, {"quality": 0}),
            ("quality 90: png is written without loss", 8, {"quality": 90, "file_format": "png"}),
            ("workers -1: expected 0 or more", 8, {"workers": -1})):
        with pytest.raises(UsageError, match=words):
            convert(tmp_path / "in", tmp_path / "out", release_of(Identity(), bits=bits), **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"b\.webp: is no tif; write \.tif"):
        convert(tmp_path / "in/000.png", tmp_path / "b.webp", release_of(Identity()), file_format="tif")
    assert not (tmp_path / "out").exists()


# ---- shards


def test_shards_do_every_file_once_and_under_the_name_it_has_alone(tmp_path: Path) -> None:
    fill(tmp_path / "in", 24)
    for name in ("000.gif", "003.gif", "006.jpg"):
        Image.fromarray(noise(8, 9)).save(tmp_path / "in" / name)
    touch(tmp_path, "in/notes.txt", "in/more.txt")
    assert convert(tmp_path / "in", tmp_path / "alone", release_of(Identity()), workers=0).exit_code == 0
    summaries = [convert(tmp_path / "in", tmp_path / "out", release_of(Identity()), workers=0,
                         shard=Shard.parse(f"{index}/3")) for index in (1, 2, 3)]
    assert sum(summary.converted for summary in summaries) == sum(summary.total for summary in summaries) == 27
    assert all(summary.converted > 0 and summary.already == 0 for summary in summaries)
    assert sorted(name for summary in summaries for name in summary.skipped) == ["more.txt", "notes.txt"]
    names = set(tree(tmp_path / "alone"))
    assert {path.name for path in (tmp_path / "out").glob(".*")} == {
        f".translate-ledger-{index}-of-3.jsonl" for index in (1, 2, 3)}
    made = {name: digest for name, digest in tree(tmp_path / "out").items() if not name.startswith(".")}
    assert made == {name: tree(tmp_path / "alone")[name] for name in names}
    for shard in (None, Shard(1, 2), Shard(2, 2)):  # a later run, however it is shared, finds all of it done
        summary = convert(tmp_path / "in", tmp_path / "out", release_of(Identity()), workers=0, shard=shard)
        assert (summary.converted, summary.already) == (0, summary.total)


def test_what_another_shard_has_made_anew_is_never_taken_for_the_older_model_s(tmp_path: Path) -> None:
    """Which of two ledgers was written last, they tell by themselves: clocks of machines differ."""
    fill(tmp_path / "in", 4)

    def num_translated(fingerprint: str, num: int) -> int:
        generator = Identity()
        for index in range(1, num + 1):
            convert(tmp_path / "in", tmp_path / "out", release_of(generator, fingerprint=fingerprint), workers=0,
                    shard=Shard(index, num) if num > 1 else None)
        return len(generator.seen)

    history = [("one", 3), ("one", 1), ("two", 1), ("two", 3), ("one", 3), ("one", 2), ("two", 2), ("one", 1)]
    assert [num_translated(*run) for run in history] == [4, 0, 4, 0, 4, 0, 4, 4]


def test_the_leftovers_of_another_shard_may_be_in_use_on_another_machine(tmp_path: Path) -> None:
    fill(tmp_path / "in", 3)
    out = tmp_path / "out"
    out.mkdir()
    jobs, _ = plan_jobs(tmp_path / "in", out, Naming(ImageConfig()))
    names = [out / f"{files.temporary_start(job.output)}4194305" for job in jobs[:2]]  # no such process
    for name in names:
        name.write_text("half")
    remove_leftovers(jobs.where(lambda name: name == jobs.names[0]))
    assert [name.exists() for name in names] == [False, True]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "-1/2", "a/b", "1/2/3"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected i/n with i from 1 to n"):
        Shard.parse(text)


def test_shards_are_of_about_equal_size() -> None:
    names = [f"inner/{number:05d}.png" for number in range(4000)]
    sizes = np.array([sum(Shard(index, 8).has(name) for name in names) for index in range(1, 9)])
    assert sizes.sum() == 4000 and abs(sizes - 500).max() < 100  # 4.8 standard deviations


# ---- dry run


def test_a_dry_run_foretells_the_run_and_touches_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "in", 4)
    (tmp_path / "in/broken.png").write_text("no image")
    touch(tmp_path, "in/notes.txt", "out/000.png")
    assert convert(tmp_path / "in/002.png", tmp_path / "out", release_of(Identity())).converted == 1
    before, generator = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}, Identity()
    told: dict[str, str] = {}
    dry = convert(tmp_path / "in", tmp_path / "out", release_of(generator), dry_run=True,
                  on_progress=lambda row, *_: told.update({row.path: row.status}))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before and generator.seen == []
    assert told == {"000.png": "failed", "002.png": "already", "003.png": "todo", "broken.png": "failed",
                    "inner/001.png": "todo"}
    real = convert(tmp_path / "in", tmp_path / "out", release_of(Identity()))
    assert (dry.todo, dry.already, [str(row) for row in dry.failed], dry.skipped, dry.exit_code) == (
        real.converted, real.already, [str(row) for row in real.failed], real.skipped, real.exit_code)
    assert not convert(tmp_path / "in", tmp_path / "new", release_of(Identity()), dry_run=True).stopped
    assert not (tmp_path / "new").exists()


def test_format_and_quality_are_part_of_what_an_output_is_made_from(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(noise(8, 9)).save(tmp_path / "in/a.jpg")
    made, sizes = [], []
    for options in ({}, {}, {"quality": 40}, {"quality": 40}, {"quality": 41}, {"file_format": "jpg"}, {}):
        summary = convert(tmp_path / "in", tmp_path / "out", release_of(Identity()), workers=0, **options)
        made.append(summary.converted)
        sizes.append((tmp_path / "out/a.jpg").stat().st_size)
    assert made == [1, 0, 1, 0, 1, 1, 1]
    assert sizes[0] == sizes[1] == sizes[5] == sizes[6] > sizes[2] == sizes[3]
    assert last_rows(tmp_path / "out")["a.jpg"]["pixels"] == 72
