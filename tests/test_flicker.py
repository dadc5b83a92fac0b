"""The flicker of a translated film, and the way from a clip to frames and back."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.commands import call
from tests.conftest import waves
from translate.errors import DataError, NoData, TranslateError
from translate.evaluation.frames import evaluate_frames
from translate.metrics.flicker import Film

ROOT = Path(__file__).parent.parent
FFMPEG = shutil.which("ffmpeg")


def film(folder: Path, change: Callable[[np.ndarray, int], np.ndarray] = lambda frame, number: frame,
         num: int = 6) -> Path:
    """Frames of a scene that moves by a pixel each, changed."""
    folder.mkdir(parents=True)
    scene = waves(3, (40, 80))
    for number in range(num):
        frame = change(scene[:, number:number + 48], number)
        Image.fromarray(frame).save(folder / f"{number:04d}.png")
    return folder


def score(folder: Path, source: Path) -> tuple[float, float]:
    results = evaluate_frames(folder, source)
    return results.scores["flicker"].value, results.floor["flicker"].value


def test_flicker_is_what_changes_beyond_the_input() -> None:
    """Beside a plain implementation, in float64 and pixel by pixel."""
    torch.manual_seed(0)
    frames, sources = torch.rand(4, 3, 5, 6) * 2 - 1, torch.rand(4, 3, 5, 6) * 2 - 1
    scored = Film()
    for frame, source in zip(frames, sources, strict=True):
        scored.add(frame, source)
    expected = []
    for number in range(3):
        total = 0.0
        for place in np.ndindex(3, 5, 6):
            change = abs(frames[number + 1][place].item() - frames[number][place].item())
            total += max(0.0, change - abs(sources[number + 1][place].item() - sources[number][place].item()))
        expected.append(total / 90 / 2)
    assert scored.score.value == pytest.approx(np.mean(expected), rel=1e-6)


def test_a_steady_translation_does_not_flicker_and_an_unsteady_one_does(tmp_path: Path) -> None:
    source = film(tmp_path / "in")
    half = film(tmp_path / "half", lambda frame, number: frame // 2)
    blinking = film(tmp_path / "blinking", lambda frame, number: np.clip(frame // 2 + 20 * (number % 2), 0, 255))
    assert score(source, source) == (0, 0)
    assert score(half, source)[0] < 0.001
    value, floor = score(blinking, source)
    assert 0.03 < value < 20 / 255 and floor == 0
    grey = film(tmp_path / "grey", lambda frame, number: frame[..., 0])
    assert score(source, grey)[0] < 0.001 < 0.03 < score(blinking, grey)[0], "a translator may colour what is grey"


def test_more_contrast_is_no_flicker(tmp_path: Path) -> None:
    """It makes every change larger; the floor says by how much, so that nobody takes that for a fault."""
    source = film(tmp_path / "in", lambda frame, number: frame // 4 + 96)
    strong = film(tmp_path / "strong", lambda frame, number: (frame // 4 - 32) * 3 + 96)
    value, floor = score(strong, source)
    assert value > 0.005 and floor == pytest.approx(value, rel=0.02)


def test_frames_go_by_the_numbers_in_their_names(tmp_path: Path) -> None:
    """As tools write them that do not pad: frame_10 came before frame_2, and strangers were compared as neighbours."""
    source = film(tmp_path / "in", num=12)
    for frame in source.iterdir():
        frame.rename(frame.with_name(f"frame_{int(frame.stem)}.png"))
    brighter = tmp_path / "out"
    brighter.mkdir()
    for frame in source.iterdir():
        shade = np.asarray(Image.open(frame)) // 2 + np.uint8(10 * int(frame.stem[6:]))
        Image.fromarray(shade).save(brighter / frame.name)
    assert score(brighter, source)[0] <= 10 / 255, "ten steps from neighbour to neighbour, and ninety from 1 to 10"


def test_the_command_prints_and_writes_it(tmp_path: Path, said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    source = film(tmp_path / "in")
    blinking = film(tmp_path / "out", lambda frame, number: frame // 2 + np.uint8(20 * (number % 2)))
    words = ("evaluate", blinking, "--source", source, "--frames", "--json", tmp_path / "x.json")
    assert call(monkeypatch, *words) == 0
    printed = " ".join(said.getvalue().split())
    assert "flicker" in printed and "6 frames in the order of their names" in printed
    document = json.loads((tmp_path / "x.json").read_text())
    assert document["metrics"]["flicker"]["interval"] and document["metrics"]["flicker"]["floor"]
    assert call(monkeypatch, "evaluate", blinking, "--frames") == 2
    assert call(monkeypatch, *words, "--against", source) == 2


@pytest.mark.parametrize(("change", "error", "match"), [
    (lambda out: Image.new("RGB", (9, 9)).save(out / "0003.png"), DataError, "0003.png: is 9×9 px, its source 48×40"),
    (lambda out: Image.new("RGB", (48, 40)).save(out / "0099.png"), DataError, "no source of their name.*0099.png"),
    (lambda out: [path.unlink() for path in sorted(out.iterdir())[1:]], NoData, "holds 1 frames")],
    ids=["size", "no source", "one"])
def test_what_is_no_film_is_said(change: Callable[[Path], object], error: type[TranslateError], match: str,
                                 tmp_path: Path) -> None:
    source, out = film(tmp_path / "in"), film(tmp_path / "out")
    change(out)
    with pytest.raises(error, match=match):
        evaluate_frames(out, source)


@pytest.mark.skipif(FFMPEG is None, reason="there is no ffmpeg here")
def test_the_commands_of_the_page_bring_a_clip_to_frames_and_back(tmp_path: Path) -> None:
    """With its sound, its times (a frame rate that changes) and odd sides; as docs/video.md has them."""
    page = (ROOT / "docs" / "video.md").read_text()
    blocks = re.findall(r"```\n(.*?)```", page, re.DOTALL)
    to_frames = blocks[0].splitlines()[0]
    to_clip = blocks[1].replace("\\\n", " ").splitlines()[1]
    listing = blocks[2]
    assert FFMPEG is not None

    def run(command: str) -> str:
        done = subprocess.run(["bash", "-ec", command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stderr

    # A clip whose second half shows every frame twice as long, with a tone
    run("ffmpeg -v error -f lavfi -i testsrc=size=65x49:rate=25:duration=2 -f lavfi -i sine=duration=2 -filter_complex "
        "\"[0:v]select='lt(n,25)+not(mod(n,2))',pad=66:50[v]\" -map [v] -map 1:a -fps_mode passthrough "
        "-video_track_timescale 12800 clip.mp4; mkdir frames")
    run(to_frames)
    shutil.copytree(tmp_path / "frames", tmp_path / "translated")
    run(listing)
    run(to_clip)

    def times(clip: str) -> tuple[list[float], bool]:
        said = run(f"ffmpeg -i {clip} -map 0:v -vf showinfo -f null -; ffmpeg -i {clip} 2>&1 || true")
        return [float(each) for each in re.findall(r"pts_time:([0-9.]+)", said)], "Audio:" in said

    before, after = times("clip.mp4"), times("translated.mp4")
    assert len(before[0]) == 37 and after[0] == pytest.approx(before[0], abs=1e-3)
    assert before[1] and after[1]
