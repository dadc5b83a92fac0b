"""A page shows what the run did, says nothing else, asks for nothing, and never costs the training anything."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.browser import CHROMIUM, Browser
from tests.conftest import write_pairs
from tests.runs import UNSEEN, Silent, cyclegan_recipe, pix2pix_recipe, train_until
from translate.cards.cards import find_card
from translate.cli.app import app
from translate.data.transforms import resized
from translate.errors import RunError, UsageError
from translate.evaluation.scoring import evaluate_run
from translate.foreign import read_lines
from translate.images.reading import ImageConfig, read_image
from translate.images.tensors import to_tensor
from translate.report import write_comparison, write_report
from translate.report.charts import (
    HEIGHT,
    LEFT,
    MAX_POINTS,
    TOP,
    Curve,
    Mark,
    Plot,
    Ring,
    line_chart,
    short,
    thin,
    ticks,
)
from translate.report.pages import words
from translate.report.run_contents import read_run
from translate.runs.manifest import verify
from translate.runs.release import load_release
from translate.training.loop import train

ODD = "!<b>1 & 2.png"  # a file name that is also HTML


class Page(HTMLParser):
    """A page's elements, and the text of it."""

    def __init__(self, file: Path):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.source = file.read_text()
        self.feed(self.source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.elements
                if name == tag and all(found.get(key) == value for key, value in wanted.items())]

    def picture(self, alt: str) -> np.ndarray:
        (found,) = self.all("img", alt=alt)
        content = base64.b64decode((found["src"] or "").removeprefix("data:image/jpeg;base64,"))
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


SHORT = [{"resolution": 64, "images": 4, "batch_size": 2}]


def recipe(data: Path, **changes: Any) -> Any:
    return pix2pix_recipe(data, **({"every": {"log": 2, "sample": 4, "checkpoint": 4, "evaluate": 4}} | changes))


def as_shown(file: Path) -> np.ndarray:
    """An image of these data as the run shows it: 72×80 px at a short side of 70."""
    return resized(read_image(file, ImageConfig()), (70, 78))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_pairs(tmp_path_factory.mktemp("data") / "pairs")
    for side in "AB":
        (folder / f"test{side}" / "1.png").rename(folder / f"test{side}" / ODD)
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Interrupted and resumed; with scores, samples, held-out images and a report."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_until(recipe(data), folder, 6)
    train(recipe(data), folder, Silent(), resume=True)
    return folder


@pytest.fixture(scope="module")
def other(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with other settings."""
    folder = tmp_path_factory.mktemp("others") / "run"
    train(recipe(data, seed=1, precision="fp32"), folder, Silent())
    return folder


def test_the_report_says_what_the_run_folder_knows(run: Path) -> None:
    page = Page(run / "report.html")
    evaluation = [record for record in read_lines(run / "metrics.jsonl") if record["kind"] == "evaluation"][-1]
    assert "finished" in page.text and "of 12 images seen" in page.text
    assert f"{short(evaluation['ssim'])} [{short(evaluation['intervals']['ssim'][0])}" in page.text
    assert short(evaluation["best"]["value"]) in page.text
    assert "kind: pix2pix" in page.text and "discriminator" in page.text and torch.__version__ in page.text
    assert [row["what"] for row in read_lines(run / "events.jsonl") if row["what"] != "report"] == [
        "started", "stage", "failed", "resumed", "stage", "finished"]
    assert all(what in page.text for what in ("started", "resumed", "memory plan split"))
    assert len(page.all("img", **{"data-when": "12 images"})) == 1


def test_an_event_is_a_line_across_the_chart_where_it_happened() -> None:
    chart = line_chart([Curve("loss", [0, 100], [0.0, 1.0])], marks=[Mark(50, "a <b>jump</b>"), Mark(500, "later")])
    (place,) = re.findall(r'class="mark" x1="([\d.]+)"', chart)
    assert float(place) == pytest.approx(LEFT + Plot.width / 2)
    assert "a &lt;b&gt;jump" in chart and "later" not in chart


def test_a_report_refers_to_nothing_outside_itself(run: Path, other: Path, tmp_path: Path) -> None:
    for file in (run / "report.html", write_comparison([run, other], tmp_path / "both.html")):
        page = Page(file)
        links = [value for _, found in page.elements for name, value in found.items()
                 if name in ("src", "href", "srcset", "action", "data", "poster")]
        assert links and all((link or "").startswith("data:") for link in links)
        assert not re.search(r"@import|url\(|https?:", page.source)
        (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
        assert "default-src 'none'" in (policy["content"] or "")


def test_names_of_files_are_shown_and_never_become_html(run: Path) -> None:
    page = Page(run / "report.html")
    assert ODD in page.text and "<b>1 &" not in page.source


def test_the_sliders_show_the_generators_own_output(run: Path, data: Path) -> None:
    """Within what JPEG changes: not those of another checkpoint, image or colour range."""
    generator = load_release(run).generator
    page = Page(run / "report.html")
    for name in ("0.png", "3.png"):
        source = to_tensor(as_shown(data / "testA" / name), ImageConfig())
        with torch.no_grad():
            made = generator(source[None])[0].add(1).mul(127.5).permute(1, 2, 0).numpy()
        assert np.abs(page.picture(f"output of {name}") - made).mean() < 4
        for what, side in (("input", "testA"), ("truth", "testB")):
            real = as_shown(data / side / name).astype(int)
            assert np.abs(page.picture(f"{what} of {name}") - real).mean() < 4 < np.abs(made - real).mean()


def test_the_best_output_is_kept_when_a_later_one_is_worse(data: Path, tmp_path: Path) -> None:
    """The learning rate of the second stage is absurd; the first stage's generator is shown as well."""
    stages = [{"resolution": 64, "images": 8, "batch_size": 2},
              {"resolution": 64, "images": 4, "batch_size": 2, "lr": {"kind": "constant", "factor": 1e5}}]
    train(pix2pix_recipe(data, stages=stages, every=UNSEEN | {"evaluate": 8}, precision="fp32",
                         evaluate={"metric": "l1"}), tmp_path / "run", Silent())
    page = Page(tmp_path / "run" / "report.html")
    best, newest = page.picture("best of 0.png"), page.picture("output of 0.png")
    with torch.no_grad():
        source = to_tensor(as_shown(data / "testA" / "0.png"), ImageConfig())
        made = load_release(tmp_path / "run" / "best").generator(source[None])[0].add(1).mul(127.5).permute(1, 2, 0)
    assert np.abs(best - made.numpy()).mean() < 4 < np.abs(newest - made.numpy()).mean()
    assert "best checkpoint" in page.text


def test_a_card_brings_its_licence_and_attribution(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its data are not on this machine."""
    monkeypatch.setenv("DIPTYCH_DATA", str(tmp_path / "nowhere"))
    copied = shutil.copytree(run, tmp_path / "run")
    text = (copied / "recipe.yaml").read_text()
    (copied / "recipe.yaml").write_text(re.sub("folder: .*", "folder: null", text).replace("card: null", "card: earth"))
    page = Page(write_report(copied))
    card = find_card("earth")
    assert card.licence in page.text and card.attribution in page.text and card.title in page.text


def test_what_goes_wrong_with_a_report_costs_the_training_nothing(data: Path, tmp_path: Path) -> None:
    """Folders lie where the page and a picture are to be written: the run ends as ever, and says what is missing."""
    folder = tmp_path / "run"

    def block(images: int) -> None:
        (folder / "report.html" / "full").mkdir(parents=True, exist_ok=True)
        (folder / "held_out" / "000000-output.jpg").mkdir(parents=True, exist_ok=True)

    report = Silent(block)
    train(recipe(data, stages=SHORT), folder, report)
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    assert any(line.startswith("warning: no report: ") for line in report.lines)
    assert any("could be kept for the report" in line and "000000-output.jpg" in line for line in report.lines)


def test_a_run_that_failed_says_so_on_its_page(data: Path, tmp_path: Path) -> None:
    def fail(images: int) -> None:
        if images >= 2:
            raise ValueError("a fault <of> the machine")

    with pytest.raises(ValueError):
        train(recipe(data), tmp_path / "run", Silent(fail))
    page = Page(tmp_path / "run" / "report.html")
    assert page.all("span", **{"class": "state failed"}) and "ValueError: a fault <of> the machine" in page.text


def test_a_step_that_ran_out_of_memory_is_on_the_page(data: Path, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """With the plan that it went on under, whose peak nobody has predicted."""
    forward, steps, short_of = torch.nn.Conv2d.forward, list[int](), []

    def once(self: torch.nn.Conv2d, image: torch.Tensor) -> torch.Tensor:
        if image.device.type != "meta" and steps and not short_of:
            short_of.append(True)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, image)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", once)
    train(recipe(data, stages=SHORT, every=UNSEEN), tmp_path / "run", Silent(steps.append))
    page = Page(tmp_path / "run" / "report.html")
    assert "out of memory in the discriminator phase under memory plan split" in page.text
    assert "<td>preact</td><td>—</td>" in page.source


def test_an_older_run_is_reported_as_far_as_it_is_known(run: Path, tmp_path: Path) -> None:
    """Without events, intervals, best and pictures, as older versions left it: the images are translated now."""
    old = shutil.copytree(run, tmp_path / "run")
    (old / "events.jsonl").unlink(), (old / "report.html").unlink(), shutil.rmtree(old / "held_out")
    new = ("intervals", "best", "since_best", "decided_by", "seconds", "num_held_out", "peak_bytes")
    records = [{name: value for name, value in record.items() if name not in new}
               for record in read_lines(old / "metrics.jsonl")]
    (old / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    page = Page(write_report(old, make=True))
    assert np.abs(page.picture("output of 0.png") - Page(run / "report.html").picture("output of 0.png")).mean() < 3
    shutil.rmtree(old / "checkpoints")
    assert "No held-out images: " in Page(write_report(old, make=True)).text
    with pytest.raises(RunError, match="no run here"):
        write_report(tmp_path)


def test_a_table_of_scores_says_which_checkpoint_it_is_of(run: Path, tmp_path: Path) -> None:
    """It stays in the folder when the run goes on, and is then no longer of the newest."""
    copied = shutil.copytree(run, tmp_path / "run")
    results = evaluate_run(copied)
    results.write(copied / "results.json")
    text = Page(write_report(copied)).text
    assert ", of the checkpoint at 12 images" in text and "Test set, newest checkpoint" in text
    document = json.loads((copied / "results.json").read_text())
    (copied / "results.json").write_text(json.dumps(document | {"weights": "8", "notes": ["<b>rough"]}))
    text = Page(write_report(copied)).text
    assert "note: <b>rough" in text, "what the command says beside its table"
    assert text.index("6 images: too few") < text.rindex("PSNR (dB)") and "No translator should do better" not in text
    assert "Test set, an earlier checkpoint" in text and "The run has seen 12 since" in text


def test_a_training_and_the_command_have_one_score_for_one_checkpoint(run: Path) -> None:
    """How alike the outputs are to each other was told of copies of 64 px by one, and of 192 px by the other."""
    record, scores = read_run(run).evaluations[-1], evaluate_run(run).scores
    both = scores.keys() & record.keys()
    assert {"similarity", "ssim"} <= both
    assert {name: record[name] for name in both} == pytest.approx({name: scores[name].value for name in both}, rel=0.05)


def test_scores_of_a_checkpoint_that_is_newest_and_best_are_shown_once(run: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(run, tmp_path / "run")
    results = evaluate_run(copied)
    for name in ("results.json", "best-results.json"):
        results.write(copied / name)
    page = Page(write_report(copied))
    assert page.source.count("<h2>Test set") == 1 and "Test set, newest checkpoint, which is the best" in page.text
    (copied / "best-results.json").write_text(json.dumps(results.as_json() | {"weights": "8"}))
    assert Page(write_report(copied)).source.count("<h2>Test set") == 2


def test_a_release_has_no_report(run: Path) -> None:
    with pytest.raises(RunError, match="is a release"):
        write_report(run / "release")
    assert verify(run / "release") is None and not (run / "release" / "report.html").exists()


def test_a_speed_that_is_not_known_is_not_drawn_as_none(run: Path) -> None:
    """The first record after a start has no stretch behind it."""
    record = read_run(run)
    assert 0.0 in [each["images_per_second"] for each in record.training]
    assert record.timed and all(each["images_per_second"] > 0 for each in record.timed)
    (chart,) = re.findall(r'aria-label="images per second">(.*?)</svg></div>', Page(run / "report.html").source)
    assert chart.count("<circle") == len(record.timed)


def test_the_kind_of_a_thing_comes_first() -> None:
    assert words({"smoothing": 0.1, "kind": "lsgan"}) == "lsgan, smoothing 0.1" and words([]) == "none"


def test_the_command_writes_elsewhere_and_leaves_the_run_as_it_is(run: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert CliRunner().invoke(app, ["report", str(run), "--out", str(tmp_path / "deep" / "page.html")]).exit_code == 0
    assert "of 12 images seen" in Page(tmp_path / "deep" / "page.html").text
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_comparison_shows_what_differs_and_each_runs_own_output(run: Path, other: Path, tmp_path: Path) -> None:
    page = Page(write_comparison([run, other], tmp_path / "both.html"))
    rows = re.findall(r"<tr><th>([a-z_.0-9]+)</th><td>(.*?)</td><td>(.*?)</td></tr>", page.source)
    assert [row for row in rows if row[0] in ("seed", "precision", "name")] == [
        ("seed", "0", "1"), ("precision", "auto", "fp32")]
    for folder in (run, other):
        name = "/".join(folder.parts[-2:])
        own = Page(folder / "report.html").picture("output of 3.png")
        assert (page.picture(f"{name} of 3.png") == own).all()
    assert page.all("img", alt="truth of 3.png")
    with pytest.raises(UsageError, match="twice"):
        write_comparison([run, run], tmp_path / "both.html")
    with pytest.raises(UsageError, match="two runs"):
        write_comparison([run], tmp_path / "both.html")


def test_a_page_stays_small_however_much_a_run_has_left(run: Path, tmp_path: Path) -> None:
    """Noise, which JPEG compresses worst, at the largest size that is kept; and many grids."""
    copied = shutil.copytree(run, tmp_path / "run")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (2048, 2048, 3), dtype=np.uint8))
    noise.save(tmp_path / "noise.jpg", quality=88)
    for path in (copied / "held_out").glob("*.jpg"):
        shutil.copy(tmp_path / "noise.jpg", path)
    noise.resize((600, 800)).save(tmp_path / "grid.png", compress_level=1)
    for number in range(40):
        shutil.copy(tmp_path / "grid.png", copied / "samples" / f"{number:012d}.png")
    page = Page(write_report(copied))
    assert len(page.source) < 20_000_000
    assert page.all("figure", **{"class": "slider"}) and "would have made this page too large" in page.text
    when = [found["data-when"] for found in page.all("img") if found.get("data-when")]
    assert len(when) == 8 and (when[0], when[-1]) == ("0 images", "39 images")


def test_an_unpaired_run_without_a_truth_has_a_report_too(data: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted((shutil.copytree(data, tmp_path / "data") / "testB").iterdir())):
        path.rename(path.with_name(f"other{number}.png"))
    train(cyclegan_recipe(tmp_path / "data", stages=[{"resolution": 16, "images": 4, "batch_size": 2}]),
          tmp_path / "run", Silent())
    page = Page(tmp_path / "run" / "report.html")
    assert "no held-out scores: " in page.text and "B → A" in page.text


class TestCharts:
    """Curves are where their values are."""

    def test_points_lie_on_the_axes_ticks(self) -> None:
        """The second point is half-way between two labelled ticks, and at the height of a third."""
        svg = line_chart([Curve("loss", [0, 500, 1000], [0.0, 0.5, 1.0])], from_zero=True)
        points = re.findall(r"([\d.]+),([\d.]+)", re.findall(r'points="(.*?)"', svg)[0])
        (tick_x,) = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="\w+">400</text>', svg)
        (next_x,) = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="\w+">600</text>', svg)
        (tick_y,) = re.findall(r'y="([\d.]+)" text-anchor="end">0.5</text>', svg)
        x, y = float(points[1][0]) + LEFT, float(points[1][1]) + TOP
        assert x == pytest.approx((float(tick_x) + float(next_x)) / 2, abs=0.2)
        assert y == pytest.approx(float(tick_y) - 3.5, abs=0.2)  # letters stand a little below their line
        assert float(points[0][1]) > float(points[2][1]), "larger values are further up"

    def test_a_long_curve_keeps_its_means_and_its_range(self) -> None:
        values = np.random.default_rng(0).normal(size=10_000)
        short_curve = thin(Curve("loss", list(range(10_000)), values.tolist()))
        assert len(short_curve.x) == MAX_POINTS and short_curve.low and short_curve.high
        assert np.mean(short_curve.y) == pytest.approx(values.mean(), abs=0.01)
        assert (min(short_curve.low), max(short_curve.high)) == (values.min(), values.max())

    def test_values_that_are_not_finite_are_left_out(self) -> None:
        assert thin(Curve("psnr", [1, 2, 3], [1.0, float("nan"), float("inf")])).x == [1.0]
        assert line_chart([Curve("psnr", [1], [float("nan")])]) == "" and line_chart([Curve("none", [], [])]) == ""

    @pytest.mark.parametrize(("low", "high"), [(0, 1), (0.99996, 0.99999), (-3, 17), (0, 1_200_000), (2.0, 2.0000001)])
    def test_ticks_are_round_distinct_and_inside(self, low: float, high: float) -> None:
        found = ticks(low, high, 5)
        assert 2 <= len(found) <= 6 and all(low - 1e-9 <= value <= high + 1e-9 for value, _ in found)
        assert len({text for _, text in found}) == len(found)

    def test_an_axis_of_values_that_are_never_negative_does_not_go_below_zero(self) -> None:
        svg = line_chart([Curve("distance", [1, 2], [0.001, 0.3])])
        assert not re.findall(r">[-−][\d.]+</text>", svg)
        assert re.findall(r">[-−][\d.]+</text>", line_chart([Curve("change", [1, 2], [-0.4, 0.3])]))

    def test_one_value_and_equal_values_are_drawn(self) -> None:
        for curve in (Curve("one", [5], [3.0]), Curve("equal", [1, 2, 3], [0.0, 0.0, 0.0])):
            svg = line_chart([curve], [Ring(curve.x[-1], curve.y[-1])])
            (place,) = re.findall(r'class="best series-0" cx="[\d.]+" cy="([\d.]+)"', svg)
            assert 0 < float(place) < HEIGHT


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
def test_the_page_works_in_a_browser(run: Path, other: Path, tmp_path: Path) -> None:
    """No complaint, no request; and what is seen beside the divider is the picture that is meant to be there."""
    both = write_comparison([run, other], tmp_path / "both.html")
    with Browser(tmp_path / "profile") as browser:
        for page in (run / "report.html", both):
            browser.requests.clear()
            browser.open(page)
            assert browser.requests == [page.resolve().as_uri()] and not browser.complaints
        browser.open(run / "report.html")
        where = browser.evaluate("""(() => { const figure = document.querySelector(".slider");
            figure.scrollIntoView();
            const [view, range] = [figure.querySelector(".view"), figure.querySelector("input")].map(
                part => part.getBoundingClientRect());
            return {view: view.toJSON(), range: range.toJSON()}; })()""")
        view, rail = where["view"], where["range"]
        pictures = {what: Page(run / "report.html").picture(f"{what} of 0.png") for what in ("input", "output")}

        def seen(share: float) -> str:
            """The picture that is nearest to what is seen at a share of the width, down the middle of the image."""
            pixel = np.array(browser.screenshot())[
                int(view["top"] + view["height"] * 0.2):int(view["top"] + view["height"] * 0.8),
                int(view["left"] + view["width"] * share)].mean(0)
            columns = {what: picture[picture.shape[0] // 5:picture.shape[0] * 4 // 5,
                                     int(picture.shape[1] * share)].mean(0) for what, picture in pictures.items()}
            return min(columns, key=lambda what: float(np.abs(columns[what] - pixel).sum()))

        assert (seen(0.25), seen(0.62)) == ("input", "output")
        middle = rail["top"] + rail["height"] / 2
        browser.drag((rail["left"] + rail["width"] / 2, middle), (rail["left"] + rail["width"] * 0.8, middle))
        assert (seen(0.25), seen(0.62), seen(0.9)) == ("input", "input", "output")
        browser.drag((rail["left"] + rail["width"] * 0.8, middle), (rail["left"] + rail["width"] * 0.1, middle))
        assert (seen(0.25), seen(0.62)) == ("output", "output")
        widths = browser.evaluate("""(() => { const figure = document.querySelector(".slider");
            const [left, right, zoom] = figure.querySelectorAll("select");
            const choose = (select, value) => { select.value = value; select.dispatchEvent(new Event("input")); };
            const width = () => figure.querySelector(".pictures").clientWidth;
            choose(zoom, "4"); const large = width(); choose(zoom, ""); choose(right, "truth");
            const shown = [...figure.querySelectorAll("img")].filter(image => !image.hidden);
            return [large, figure.querySelector("img").naturalWidth, shown.map(image => image.dataset.what)]; })()""")
        assert widths == [4 * 80, 80, ["input", "truth"]]
        assert browser.evaluate("""(() => { const figure = document.querySelector("figure.over-time");
            const range = figure.querySelector("input"); range.value = 0; range.dispatchEvent(new Event("input"));
            return [figure.querySelectorAll("img:not([hidden])").length, figure.querySelector("output").textContent];
            })()""") == [1, "4 images"]
        browser.call("Emulation.setDeviceMetricsOverride", width=360, height=700, deviceScaleFactor=2, mobile=True)
        for page in (run / "report.html", both):  # on a phone, only tables and zoomed images may be wider than it
            browser.open(page)
            assert browser.evaluate("document.documentElement.scrollWidth") == 360
        assert not browser.complaints


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
def test_a_page_that_asks_or_complains_would_be_noticed(run: Path, tmp_path: Path) -> None:
    """The proof that the test above can fail."""
    (tmp_path / "asks.html").write_text('<img src="http://127.0.0.1:9/picture.png"><script>nothing()</script>')
    with Browser(tmp_path / "profile") as browser:
        browser.open(tmp_path / "asks.html")
        assert "http://127.0.0.1:9/picture.png" in browser.requests
        assert any("nothing is not defined" in complaint for complaint in browser.complaints)
