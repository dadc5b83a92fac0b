"""Whatever files are called, and whatever the output can encode: what is printed is shown, and nothing more happens."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tests.conftest import write_pairs
from tests.covering import one_in
from tests.runs import Silent, least_recipe
from translate.cli import console, main
from translate.cli.progress import Display
from translate.errors import DataError, visible
from translate.foreign import read_lines
from translate.recipe import load_recipe
from translate.report import write_report
from translate.training.loop import train

EARLIER = Path(__file__).parent / "data" / "run-b2bf1ce"
FORGED = "error: all is lost"
HOSTILE = [f"a\n{FORGED}.png", "b\x1b[2K\x1b[1Aerased.png", "c\r" + FORGED + ".png", "d\x9b31mred.png",
           "e\u202egnp.exe.png", f"f\u2028{FORGED}.png", "g\x07\x08\x7f.png", "h[bold red]markup[reverse].png",
           os.fsdecode("写真".encode("cp932") + b"\xff.png")]
FINE = ["writing 写真.png", "café.png", "naïve — dash.png", "emoji 🎨.png", "a\u3000wide space.png"]


def images(folder: Path, names: list[str], content: bytes | None = None) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        if content is None:
            Image.fromarray(np.zeros((24, 24, 3), np.uint8)).save(folder / "plain.png")
            (folder / "plain.png").rename(folder / name)
        else:
            (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """`command(*words, encoding=…)` calls `translate` with streams of that encoding; returns what it has printed."""
    def call(*words: str | Path, encoding: str = "utf-8") -> str:
        printed = io.BytesIO()
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(printed, encoding, write_through=True))
        monkeypatch.setattr(sys, "argv", ["translate", *map(str, words)])
        with pytest.raises(SystemExit):
            main()
        return printed.getvalue().decode(encoding)

    return call


def harmless(text: str) -> bool:
    """Whether a terminal would act on nothing, and no line is one that a name has forged."""
    lines = text.split("\n")
    return all(visible(line) == line for line in lines) and not any(line.startswith(FORGED) for line in lines)


def test_a_name_is_shown_as_it_is_unless_it_would_do_something() -> None:
    assert [visible(name) for name in FINE] == FINE
    assert [visible(name) for name in HOSTILE] == [
        r"a\nerror: all is lost.png", r"b\x1b[2K\x1b[1Aerased.png", r"c\rerror: all is lost.png", r"d\x9b31mred.png",
        r"e\u202egnp.exe.png", r"f\u2028error: all is lost.png", r"g\x07\x08\x7f.png", "h[bold red]markup[reverse].png",
        r"\udc8eʐ^\udcff.png"]


@pytest.mark.parametrize("what", ["unreadable", "fine", "skipped", "foreign"])
def test_a_conversion_prints_names_that_a_terminal_does_not_act_on(what: str, command: Callable[..., str],
                                                                   tmp_path: Path) -> None:
    """Names with escape sequences erased the lines of a conversion, and such with newlines forged some."""
    names = HOSTILE if what != "skipped" else [f"{name}.txt" for name in HOSTILE]
    source = images(tmp_path / "in", names, None if what in ("fine", "foreign") else b"no image")
    if what == "skipped":
        images(tmp_path / "in" / "one", ["fine.png"])
    if what == "foreign":
        images(tmp_path / "out", HOSTILE)
    model = EARLIER / "release"
    text = command("convert", source, tmp_path / "out", "--model", model, "--workers", "0")
    text += command("convert", source, tmp_path / "out", "--model", model, "--workers", "0", "--dry-run")
    assert harmless(text)
    assert r"a\nerror: all is lost.png" in text and r"\x1b[2K\x1b[1A" in text and r"\udc8e" in text
    assert "h[bold red]markup[reverse].png" in text


def test_a_check_prints_names_that_a_terminal_does_not_act_on(command: Callable[..., str], tmp_path: Path) -> None:
    write_pairs(tmp_path / "in")
    for number, name in enumerate(HOSTILE):
        path = tmp_path / "in" / ("trainA" if number % 2 else "trainB") / name
        path.write_bytes(b"no image")
    text = command("data", "check", tmp_path / "in")
    assert harmless(text) and text.count("is lost.png") >= 3


def test_errors_tables_and_bars_show_names_that_a_terminal_does_not_act_on() -> None:
    file = io.StringIO()
    terminal = Console(file=file, width=250, force_terminal=True, color_system=None)
    for name in HOSTILE:
        console.say(f"error: {DataError('holds no image', Path(name), 'look')}", terminal)
        with Display(name, Console(file=file, width=250)) as display:
            display.progress(3, 3, name, {name: 1.0})
    table = console.Table("class", *HOSTILE[:2], title=HOSTILE[0])
    for name in HOSTILE:
        table.add_row(name, name, "x")
    terminal.print(table)
    assert harmless(file.getvalue())
    assert file.getvalue().count("h[bold red]markup[reverse].png") >= 4  # and not as a style


# -- streams that cannot encode everything -----------------------------------------------------------------------------

ENCODINGS = ["cp1252", "ascii", "cp932", "utf-8"]


@pytest.mark.parametrize("encoding", one_in(2, list(ENCODINGS)))
def test_every_command_can_print_whatever_the_stream_encodes(encoding: str, command: Callable[..., str],
                                                             tmp_path: Path) -> None:
    """On a Windows pipe or in a CI log (PYTHONIOENCODING=cp1252), the arrow of a table ended `plan`, `train`,
    `convert` and `data check` in a traceback, after all of their work."""
    source = images(tmp_path / "in", [*FINE, HOSTILE[-1]])
    (source / "broken é写.png").write_bytes(b"x")
    stages = "stages=[{resolution: 64, images: 1, memory: {plan: plain}}]"
    words = [("plan", "earth", "--gpu", "8GB", "--set", stages),
             ("convert", source, tmp_path / "out", "--model", EARLIER / "release", "--workers", "0"),
             ("data", "check", source), ("report", shutil.copytree(EARLIER / "run", tmp_path / "runé写"))]
    for each in words:
        text = command(*each, encoding=encoding)
        assert "Traceback" not in text and text.strip(), each
        if each[0] == "convert":
            assert "6 converted" in text and ("images -> " in text or "images → " in text)
            assert "broken \\xe9\\u5199.png" in text or encoding != "ascii"
        if each[0] == "plan":
            assert "-> " in text or "→" in text
            assert "64x64" in text or "64×64" in text


def test_what_a_stream_cannot_encode_is_spelled() -> None:
    written = io.TextIOWrapper(io.BytesIO(), "ascii")
    console.speak_any_encoding()
    written.reconfigure(errors="translate.spelled")
    written.write("→ 8×8 ± ∞ … é \udc8e 🎨")
    written.flush()
    assert written.buffer.getvalue() == rb"-> 8x8 +/- inf ... \xe9 \udc8e \U0001f3a8"  # type: ignore[attr-defined]


# -- names in other encodings ------------------------------------------------------------------------------------------


def test_a_training_on_names_in_another_encoding_has_its_report(tmp_path: Path) -> None:
    """Images named in Shift-JIS, as unzip leaves them on Linux: there was no report, and `translate report` ended in a
    traceback. A folder whose own name is no text stands in the recipe, and is found again."""
    data = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + "写真".encode("cp932")))
    write_pairs(data)
    for path in list(data.rglob("*.png")):
        path.rename(path.with_name(os.fsdecode("写真".encode("cp932")) + path.name))
    recipe = least_recipe(data, stages=[{"resolution": 16, "images": 4, "batch_size": 2}],
                          every={"log": 2, "sample": 4, "checkpoint": 4, "evaluate": 4})
    run, heard = tmp_path / "run", Silent()
    train(recipe, run, heard)
    assert not [line for line in heard.lines if "warning: no report" in line]
    assert r"\udc8e" in (run / "report.html").read_text()
    assert r"\udc8e" in write_report(run, tmp_path / "again.html").read_text()
    assert load_recipe(run / "recipe.yaml").data.folder == data
    assert read_lines(run / "events.jsonl")[-1]["what"] == "report"


def test_a_ledger_holds_names_in_any_encoding(command: Callable[..., str], tmp_path: Path) -> None:
    """And a second call finds all of them done."""
    source = images(tmp_path / "in", [HOSTILE[-1], os.fsdecode("фото.png".encode("koi8_r")), HOSTILE[0]])
    words = ("convert", source, tmp_path / "out", "--model", EARLIER / "release", "--workers", "0")
    for expected in ("3 converted, 0 done before", "0 converted, 3 done before"):
        assert expected in command(*words)
    rows = read_lines(tmp_path / "out" / ".translate-ledger.jsonl")
    assert {row["path"] for row in rows} == {path.name for path in Path(source).iterdir()}


def test_no_report_is_promised_where_there_is_none(tmp_path: Path, said: io.StringIO,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """`its report: …/report.html` was said of a file that is not there."""
    from translate.training import loop

    write_pairs(tmp_path / "pairs")
    file = tmp_path / "x.yaml"
    file.write_text(least_recipe(tmp_path / "pairs").dump_yaml())
    monkeypatch.setattr(loop, "train", lambda recipe, folder, *rest, **options: folder.mkdir())
    monkeypatch.setattr(sys, "argv", ["translate", "train", str(file), "--run", str(tmp_path / "run")])
    with pytest.raises(SystemExit):
        main()
    assert "finished: " in said.getvalue() and "report.html" not in said.getvalue()
