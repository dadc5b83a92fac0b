"""How long a step takes is foretold from what it does and how fast a device is: counted, measured, kept, and chosen by.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from itertools import product
from pathlib import Path
from threading import Event, Thread
from typing import Any

import cv2
import pytest
import torch
from torch.nn import functional as F

from tests.commands import call
from tests.covering import one_in
from tests.runs import Silent, cyclegan_recipe, least_recipe, pix2pix_recipe, unseen_recipe
from tests.test_workers import machine
from translate.data import stream as streams
from translate.errors import UsageError
from translate.host import cores
from translate.networks import memory
from translate.networks.live_bytes import LiveBytes, Work
from translate.networks.normalised import computed_by, paths
from translate.places import shipped_recipes
from translate.recipe import Stage, load_recipe
from translate.schema import validate
from translate.sizes import format_duration
from translate.training import hours, memory_plans, speeds
from translate.training.gpus import GPUS, gpu_named, like_one_of, size_and_gpu
from translate.training.hours import Loading, Pace, end_in_words, loading_of
from translate.training.loop import train
from translate.training.plan import PLAIN_GAIN, budget_of, choose, predict
from translate.training.recipe_plan import plan_for_gpu
from translate.training.speeds import assumed, measured, published
from translate.training.step_on_meta import Networks, StepOnMeta

CPU = torch.device("cpu")
H200 = published(gpu_named("H200"), "fp16")
H200_APART = replace(H200, moving=speeds.MOVING["apart"])  # with layers as they were when it was measured
RECIPES = {path.stem: path for path in shipped_recipes()}

# Steps of CycleGAN (ResNet-9, batch 1, fp16) at 1024 px as an H200 took them, relative to `plain`: docs/benchmarks.md.
MEASURED_AT_1024 = {"plain": 1.00, "split": 1.03, "preact": 1.28, "replay": 1.36, "blocks": 1.45, "strips": 2.24,
                    "strips_blocks": 2.14}


def spin() -> None:
    while True:
        pass


class TestWork:
    def test_what_operations_read_and_write_is_counted_apart_from_convolutions(self) -> None:
        image, weight = torch.zeros(1, 4, 8, 8), torch.zeros(4, 4, 3, 3)
        with LiveBytes("cpu") as counter:
            made = F.conv2d(image, weight, padding=1)
            assert counter.work == Work(2 * 4 * 4 * 9 * 64, 0, 1)
            counter.work = Work()
            made.view(4, 64).t()
            torch.empty(1000)
            torch.promote_types(made.dtype, torch.float64)
            assert counter.work == Work(), "views, empty tensors and questions cost nothing"
            made + image
            assert counter.work == Work(0, 3 * image.nbytes, 1)
            made += image
            assert counter.work == Work(0, 6 * image.nbytes, 2), "reads two and writes one"
            made.copy_(image)
            made.zero_()
            assert counter.work == Work(0, 9 * image.nbytes, 4), "what is overwritten is not read"

    def test_a_backward_convolution_starts_a_kernel_for_each_gradient(self) -> None:
        image, weight = torch.zeros(1, 4, 8, 8, requires_grad=True), torch.zeros(4, 4, 3, 3, requires_grad=True)
        loss = F.conv2d(image, weight).sum()
        with LiveBytes("cpu") as counter:
            loss.backward()
        assert counter.work.flops == 2 * 2 * 4 * 4 * 9 * 36 and counter.work.kernels >= 2

    def test_remembered_shapes_have_the_work_of_those_that_torch_finds(self) -> None:
        def work() -> Work:
            with LiveBytes("meta") as counter:
                x = torch.empty(2, 4, 8, 8, device="meta", requires_grad=True)
                F.batch_norm(F.pad(x, (1, 1, 1, 1), "reflect"), None, None, training=True).relu_().sum().backward()
            return counter.work

        assert work() == work() != Work()

    def test_a_step_does_the_same_on_a_gpu_but_for_its_optimizer(self) -> None:
        """A fused one reads and writes each of its numbers once."""
        config = {"kind": "pix2pix", "generator": {"kind": "resnet", "width": 4, "blocks": 1},
                  "discriminator": {"kind": "patchgan", "width": 4, "layers": 2}}
        step = StepOnMeta(validate(Networks, {"translator": config, "optimizer": {}}, "x"), (3, 3),
                          Stage(resolution=32, images=1))
        gpu, cpu = (step.measure(memory.PLANS["split"], "fp32", kind, 1).work for kind in ("cuda", "cpu"))
        assert gpu.flops == cpu.flops and gpu.moved_bytes < cpu.moved_bytes and gpu.kernels < cpu.kernels


# One of pairs; of a CycleGAN a small one for each GPU, at every size of memory: test_plan.py.
QUICK = {("facades", "H200", "8GB")}


@pytest.mark.parametrize(("name", "gpu", "size"), [
    pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
    for case in product(RECIPES, ("H200", "RTX 3060"), ("8GB", "16GB"))])
def test_auto_takes_the_least_predicted_time_of_what_fits(name: str, gpu: str, size: str) -> None:
    """On every shipped recipe; and plans said to do more than others do no less of anything."""
    recipe, speed, budget = load_recipe(RECIPES[name]), published(gpu_named(gpu), "fp16"), budget_of(size)
    stage = recipe.stages[-1]
    every = {plan: predict(recipe, stage, memory.PLANS[plan], "fp16", speed=speed) for plan in memory.PLANS}
    fitting = [each for each in every.values() if each.fits(budget)]
    found = choose(recipe, stage, budget, "fp16", speed=speed)
    assert (found is None) == (not fitting)
    if found is not None:
        worth = 1 - PLAIN_GAIN if found.plan.name == "split" else 1
        assert worth * found.seconds <= min(each.seconds for each in fitting)
    for less, those in memory.MORE_WORK.items():
        assert all(every[less].seconds <= every[more].seconds for more in those)
        assert all(every[less].compute <= every[more].compute + 1e-9 for more in those)


@pytest.mark.slow  # the next one is quick, of predictions alone
def test_strips_are_no_longer_taken_where_blocks_fit_and_are_faster() -> None:
    """`auto` ranked plans by multiplications: strips, 2.24 times the textbook step on an H200, before blocks, 1.45.

    Whatever room there is, what is taken is the fastest of what fits, by the clock as well.
    """
    recipe = load_recipe(RECIPES["monet2photo_2000"])
    stage = recipe.stages[-1].model_copy(update={"resolution": 1024})
    with computed_by("eager"):
        every = {plan: predict(recipe, stage, memory.PLANS[plan], "fp16", speed=H200_APART)
                 for plan in MEASURED_AT_1024}
        taken = {plan: choose(recipe, stage, room.peak_bytes, "fp16", speed=H200_APART)
                 for plan, room in every.items()}
    assert every["strips"].compute < every["blocks"].compute, "by multiplications"
    assert MEASURED_AT_1024["blocks"] < MEASURED_AT_1024["strips"], "by the clock"
    assert taken["blocks"] is not None and taken["blocks"].plan.name == "blocks"
    for name, found in taken.items():
        fitting = [other for other, each in every.items() if each.peak_bytes <= every[name].peak_bytes]
        assert found is not None
        assert MEASURED_AT_1024[found.plan.name] <= 1.05 * min(MEASURED_AT_1024[other] for other in fitting)


def test_nor_are_strips_predicted_faster_with_layers_of_one_operation() -> None:
    """As `translate plan` counts them for 2000 px and 8 GB, where blocks fit."""
    recipe = load_recipe(RECIPES["monet2photo_2000"])
    for gpu in ("H200", "V100"):
        blocks, strips = (predict(recipe, recipe.stages[-1], memory.PLANS[plan], "fp16",
                                  speed=published(gpu_named(gpu), "fp16")) for plan in ("blocks", "strips"))
        assert blocks.fits(budget_of("8GB")) and blocks.seconds < strips.seconds


@pytest.mark.slow
@pytest.mark.parametrize("gpu", ["H200", "V100"])
def test_auto_takes_blocks_at_2000_px_in_8_gb(gpu: str) -> None:
    recipe = load_recipe(RECIPES["monet2photo_2000"])
    found = choose(recipe, recipe.stages[-1], budget_of("8GB"), "fp16", speed=published(gpu_named(gpu), "fp16"))
    assert found is not None and found.plan.name == "blocks"


@pytest.mark.parametrize("plan", one_in(3, list(MEASURED_AT_1024)))
def test_predicted_and_measured_agree_in_kind(plan: str) -> None:
    """Within a factor of 1.6 either way, of an H200 and of layers as they were when it was measured."""
    recipe = load_recipe(RECIPES["monet2photo_2000"])
    stage = recipe.stages[-1].model_copy(update={"resolution": 1024})
    seconds = 0.30 / MEASURED_AT_1024["split"] * MEASURED_AT_1024[plan]  # docs/benchmarks-recipes.md: split, 0.30 s
    with computed_by("eager"):
        found = predict(recipe, stage, memory.PLANS[plan], "fp16", speed=H200_APART)
    assert seconds / 1.6 < found.seconds < 1.6 * seconds


def test_a_step_on_this_cpu_takes_about_what_is_predicted() -> None:
    """Processor time, so that what else the machine does is not counted. Within a factor of two."""
    import time

    from accelerate import Accelerator

    from tests.steps import build, make_batch
    from translate.training.built import parameters_of
    from translate.training.update import Update

    config = {"kind": "pix2pix", "generator": {"kind": "resnet", "width": 16, "blocks": 2},
              "discriminator": {"kind": "patchgan", "width": 16, "layers": 2}}
    recipe = cyclegan_recipe(Path("none"), translator=config, data={"kind": "paired", "folder": "none", "resize": 128},
                             stages=[{"resolution": 128, "images": 1}])
    translator, batch = build(recipe.translator, torch.float32), make_batch((128, 128), 1, torch.float32)
    optimizers = {phase: recipe.optimizer.generator.build(parameters_of(translator, phase))
                  for phase in translator.phases}
    taken = []
    for _ in range(4):
        begin = time.process_time()
        translator.step(batch, Update(translator, optimizers, Accelerator(cpu=True), memory.PLANS["split"], "fp32"))
        taken.append(time.process_time() - begin)
    found = predict(recipe, recipe.stages[0], memory.PLANS["split"], "fp32", "cpu", speed=measured(CPU, "fp32"))
    assert found.seconds / 2 < min(taken) < 2 * found.seconds


class TestGPUs:
    def test_names_are_understood_as_people_write_them(self) -> None:
        for name in ("RTX 4090", "rtx4090", "NVIDIA GeForce RTX 4090", "rtx-4090"):
            assert gpu_named(name).name == "RTX 4090"
        with pytest.raises(UsageError, match="did you mean RTX 3060"):
            size_and_gpu("3060 Ti")  # no 3060 TiB
        with pytest.raises(UsageError, match=r"did you mean 8\.5GB"):
            gpu_named("8.5")
        with pytest.raises(UsageError) as error:
            gpu_named(".")
        assert "did you mean" not in str(error.value)
        assert size_and_gpu("v100") == ("32GB", gpu_named("V100")) and size_and_gpu("8GB") == ("8GB", None)

    def test_one_that_is_sold_in_several_sizes_may_be_named_with_its_own(self) -> None:
        for name in ("V100 16GB", "v100-16GB", "Tesla V100 16GB "):
            assert size_and_gpu(name) == ("16GB", gpu_named("V100"))
        with pytest.raises(UsageError, match="no V100 has so much memory; the largest has 32GB"):
            size_and_gpu("V100 64GB")
        with pytest.raises(UsageError, match="'RTX 3060 Ti' is no GPU that is known"):
            size_and_gpu("RTX 3060 Ti")

    def test_both_spellings_of_the_option_at_once_are_refused(self, monkeypatch: pytest.MonkeyPatch, capsys: Any
                                                              ) -> None:
        """The one before was dropped, silently."""
        for command in ("plan", "train"):
            assert call(monkeypatch, command, "earth", "--gpu", "V100", "--memory", "16GB") == 2
            said = " ".join(capsys.readouterr().err.split())
            assert "--gpu V100 --memory 16GB: two spellings of one option" in said and '--gpu "V100 16GB"' in said

    @pytest.mark.parametrize(("name", "hint"), [("RTX 4080", "did you mean RTX 4090"), ("Voodoo 2", "known"), ("", ""),
                                                ("8", "did you mean 8GB")])
    def test_an_unknown_one_is_refused_with_those_that_are_known(self, name: str, hint: str) -> None:
        with pytest.raises(UsageError) as caught:
            size_and_gpu(name)
        assert hint in str(caught.value) and all(gpu.name in str(caught.value) for gpu in GPUS)

    def test_a_format_that_a_gpu_has_not_is_refused(self) -> None:
        with pytest.raises(UsageError, match="V100 has no bf16"):
            published(gpu_named("V100"), "bf16")

    def test_of_a_size_alone_one_with_as_much_memory_is_assumed(self) -> None:
        named = [(8, "fp16", "RTX 3060"), (16, "fp16", "T4"), (16, "bf16", "RTX 4090"), (40, "fp16", "A100"),
                 (500, "fp16", "H200")]
        for size, precision, name in named:
            assert like_one_of(size * 10**9, precision).name == name  # type: ignore[arg-type]

    def test_a_card_of_which_the_driver_says_the_bytes_is_assumed_to_be_itself(self) -> None:
        """A card of 24 GiB has more than 24 GB, and was taken for a V100 of 32."""
        for num_bytes, name in ((24 * 2**30, "RTX 4090"), (12 * 2**30, "RTX 3060"), (16 * 2**30, "T4"),
                                (85_899_345_920, "A100"), (150_754_820_096, "H200")):
            assert like_one_of(num_bytes, "fp16").name == name

    def test_a_card_without_these_kernels_takes_the_time_of_separate_operations(self) -> None:
        for gpu in GPUS:
            expected = "apart" if gpu.name in ("V100", "T4") else "together"
            assert published(gpu, "fp16").moving == speeds.MOVING[expected], gpu.name
        assert assumed("cuda", "fp16", 16 * 10**9).moving == speeds.MOVING["apart"], "a T4"

    def test_the_plan_for_a_named_gpu_does_not_depend_on_the_card_that_is_here(self, monkeypatch: pytest.MonkeyPatch
                                                                               ) -> None:
        recipe = cyclegan_recipe(Path("a"), translator={
            "kind": "cyclegan", "generator": {"kind": "resnet", "width": 8, "blocks": 1},
            "discriminator": {"kind": "patchgan", "width": 2, "layers": 1}})
        stage, named, here = Stage(resolution=256, images=1), {}, {}
        for path in ("plain", "fused"):
            monkeypatch.setattr(paths, "path_here", lambda path=path: path)
            for peaks, speed in ((named, H200), (here, replace(H200, is_measured=True))):
                peaks[path] = predict(recipe, stage, memory.PLANS["blocks"], "fp16", speed=speed).peak_bytes
        assert named["plain"] == named["fused"] == here["plain"] > here["fused"]


class TestMeasured:
    """Numbers of this machine, kept in the user's cache."""

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
        speeds._numbers.cache_clear()
        yield tmp_path / "cache" / "speeds.json"
        speeds._numbers.cache_clear()

    @pytest.fixture
    def measuring(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """What was asked to be measured; the test above does it for real."""
        said: list[Any] = []
        numbers = speeds.Numbers(flops=9e10, moved_bytes=1e10, kernel_seconds=2e-5)
        monkeypatch.setattr(speeds, "measure", lambda *asked: said.append(asked) or numbers)
        return said

    def test_they_are_measured_once_and_kept_for_each_format(self, cache: Path) -> None:
        state = torch.random.get_rng_state()
        first = measured(CPU, "fp32")
        assert torch.equal(torch.random.get_rng_state(), state), "a training's chance is as without"
        assert first.is_measured and 1e8 < first.flops < 1e14 and 1e8 < first.moved_bytes < 1e13
        (name,) = json.loads(cache.read_text())
        assert torch.__version__ in name and "fp32" in name and "thread" in name
        speeds._numbers.cache_clear()
        assert measured(CPU, "fp32") == first, "as kept, to the last digit"

    @pytest.mark.parametrize("damage", ["", "{", "[1, 2]", '{"x": {"flops": -1}}', '{"x": null}', "\0" * 50,
                                        '{"x": {"flops": 1e12, "moved_bytes": NaN, "kernel_seconds": 1e-5}}'])
    def test_a_damaged_cache_is_measured_again(self, damage: str, cache: Path, measuring: list[Any]) -> None:
        cache.parent.mkdir()
        cache.write_text(damage)
        assert measured(CPU, "fp32").flops == 9e10 and len(measuring) == 1
        speeds._numbers.cache_clear()
        assert measured(CPU, "fp32").flops == 9e10 and len(measuring) == 1, "and is whole again"

    def test_no_cache_is_needed(self, cache: Path, measuring: list[Any], tmp_path: Path) -> None:
        cache.parent.write_text("a file stands in the way")
        assert measured(CPU, "fp32").flops == 9e10 and len(measuring) == 1

    def test_a_device_without_room_is_taken_for_one_of_the_table(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*asked: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory.")

        monkeypatch.setattr(speeds, "measure", full)
        found = measured(CPU, "fp32")
        assert found == assumed("cpu", "fp32") and not found.is_measured


class TestHours:
    def test_loading_covers_a_step_that_is_quicker_where_workers_do_it(self) -> None:
        assert Loading(2.0).beside(1.0) == 2.0 and Loading(2.0, num_workers=0).beside(1.0) == 3.0
        assert Loading(0.5).beside(1.0) == 1.0 and Loading(None).beside(1.0) == 1.0
        assert Loading(2.0).holds_up(1.0) and not Loading(0.5).holds_up(1.0)

    def test_loading_is_tried_on_the_recipes_own_images(self, shared_pairs: Path) -> None:
        recipe = cyclegan_recipe(shared_pairs)
        samples = recipe.data.build("train", Path())
        alone = loading_of(samples, recipe.model_copy(update={"workers": 0}), recipe.stages[0])
        assert alone.seconds and 0 < alone.seconds < 1 and alone.num_workers == 0
        assert loading_of(samples, recipe.model_copy(update={"workers": 2}), recipe.stages[0]).num_workers

    def test_the_first_sample_which_loads_libraries_does_not_count(self, shared_pairs: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
        """A training of small images was to take 20 times as long: its first sample had imported a library."""
        recipe = cyclegan_recipe(shared_pairs)
        samples = recipe.data.build("train", Path())
        now, taken = [0.0], iter([30.0, *[0.25] * 99])

        def fitted(*_: Any) -> None:
            now[0] += next(taken)

        monkeypatch.setattr(hours.Stream, "sample", fitted)
        monkeypatch.setattr(time, "perf_counter", lambda: now[0])
        recipe = recipe.model_copy(update={"workers": 0})
        assert loading_of(samples, recipe, recipe.stages[0]).seconds == pytest.approx(0.25)

    def test_it_is_tried_once_for_each_stage_of_a_training(self, shared_pairs: Path, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
        """At the start of each stage the images of all that follow were decoded again, only to be told of."""
        stages = [{"resolution": size, "images": 2, "batch_size": 2} for size in (16, 24, 32)]
        recipe, tried = unseen_recipe(shared_pairs, stages=stages), []

        def tell(samples: Any, recipe: Any, stage: Stage, *where: Any) -> Loading:
            tried.append(stage.size)
            return loading_of(samples, recipe, stage, *where)

        monkeypatch.setattr(memory_plans, "loading_of", tell)
        train(recipe, tmp_path / "run", Silent())
        assert tried == [(16, 16), (24, 24), (32, 32)]

    @pytest.mark.parametrize(("paired", "room", "seconds"), [(True, 1.0, 0.0), (True, 0.9, 1.0), (False, 1.0, 1.0)])
    def test_pairs_that_stay_in_memory_are_foretold_without_their_decoding(
            self, paired: bool, room: float, seconds: float, shared_pairs: Path, monkeypatch: pytest.MonkeyPatch
            ) -> None:
        """Eight pairs were to be loaded at 48 ms each, and were at 3 ms, and the advice would have made them slower."""
        recipe = (pix2pix_recipe if paired else cyclegan_recipe)(shared_pairs).model_copy(update={"workers": 0})
        samples = recipe.data.build("train", Path())
        now, stage, fitted = [0.0], recipe.stages[0], type(samples).fitted

        def decoded(*asked: Any) -> Any:
            now[0] += 1.0
            return fitted(*asked)

        images = fitted(samples, 0, 0, stage.resize or samples.loading.resize, stage.size)
        monkeypatch.setattr(streams, "KEPT_BYTES", int(room * len(samples) * sum(image.nbytes for image in images)))
        monkeypatch.setattr(type(samples), "fitted", decoded)
        monkeypatch.setattr(time, "perf_counter", lambda: now[0])
        assert loading_of(samples, recipe, stage).seconds == seconds

    def test_loading_takes_cores_from_a_step_on_a_cpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One worker of two cores, on both of which a step computes: neither is done before the cores did both."""
        monkeypatch.setattr(hours, "num_cores", lambda: 2)
        assert Loading(1.0, num_workers=1, step_cores=1.0).beside(1.0) == 1.5
        assert Loading(1.0, num_workers=1, step_cores=0.5).beside(1.0) == 1.0, "a core each"
        assert Loading(9.0, num_workers=1, step_cores=1.0).beside(1.0) == 9.0

    def test_the_start_of_a_stage_names_what_holds_it_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A speed ten times too high stood there, of the step alone, while images were decoded."""
        assert Pace(0.1, Loading(1.0)).in_words().startswith(
            "1.0 images/s, held up by loading images (decoding and resizing, by 1 process beside the step); steps "
            "alone would be at 10.0 images/s. More processes load with --set workers=N")
        monkeypatch.setattr(hours, "num_cores", lambda: 2)
        shared = Pace(1.0, Loading(0.8, num_workers=1, step_cores=1.0)).in_words()
        assert "sharing its cores" in shared and "More processes" not in shared and "--set data.cache" in shared
        assert "before each step" in Pace(0.1, Loading(1.0, num_workers=0)).in_words()
        assert Pace(1.0, Loading(0.1)).in_words() == "1.0 images/s, held up by the step, not by loading images"
        assert Pace(0.5, Loading()).in_words() == "2.0 images/s, loading not counted"

    def test_images_that_cannot_be_read_leave_it_unknown(self, shared_pairs: Path, monkeypatch: pytest.MonkeyPatch
                                                         ) -> None:
        recipe = cyclegan_recipe(shared_pairs)
        samples = recipe.data.build("train", Path())
        monkeypatch.setattr(samples, "files_a", tuple(Path("gone") for _ in samples.files_a))
        assert loading_of(samples, recipe, recipe.stages[0]).seconds is None

    @pytest.mark.parametrize("fault", [cv2.error("bad"), MemoryError(), RuntimeError("bad")], ids=repr)
    def test_no_fault_of_what_is_only_told_ends_a_training(self, fault: Exception, shared_pairs: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
        """The samples were decoded in the main process, and what a library raised there ended the run unsaved."""
        recipe = cyclegan_recipe(shared_pairs)
        samples = recipe.data.build("train", Path())

        def fitted(*_: Any) -> None:
            raise fault

        monkeypatch.setattr(type(samples), "fitted", fitted)
        assert loading_of(samples, recipe, recipe.stages[0]).seconds is None

    @pytest.fixture
    def shared_core(self) -> Iterator[None]:
        """A core that this thread, and those that it starts, have together with another program."""
        if any(True for _ in cores.quotas()):
            pytest.skip("this process has a CPU quota, under which no wait for a core is left out")
        allowed = os.sched_getaffinity(0)
        other = multiprocessing.get_context("fork").Process(target=spin, daemon=True)
        os.sched_setaffinity(0, {min(allowed)})
        other.start()
        yield
        other.kill()
        os.sched_setaffinity(0, allowed)

    @pytest.mark.usefixtures("shared_core")
    def test_waiting_for_a_core_that_others_hold_is_no_time_of_the_work(self) -> None:
        """On a machine where others computed a CPU was measured at a quarter of its speed, and kept so."""
        numbers = list(range(60_000))
        begin, of_core = time.perf_counter(), time.process_time()
        seconds = speeds._seconds(lambda: sorted(numbers, key=str), CPU)
        wall, of_core = (now - then for now, then in ((time.perf_counter(), begin), (time.process_time(), of_core)))
        assert wall > 1.5 * of_core, "the other has its half"
        assert seconds == pytest.approx(of_core / (1 + speeds.ROUNDS), rel=0.4)

    @pytest.mark.usefixtures("shared_core")
    def test_waiting_for_a_core_counts_under_a_quota(self, tmp_path: Path) -> None:
        """In a container with a third of a core, whose quota holds threads up as others do, hours were a third."""
        container = machine(tmp_path, 2, cpu__max="30000 100000")
        clock, in_container, begin = cores.CoreClock(), cores.CoreClock(container), time.perf_counter()
        sorted(range(150_000), key=str)
        passed = time.perf_counter() - begin
        assert in_container.seconds() == pytest.approx(passed, rel=0.1) and clock.seconds() < 0.8 * passed

    @pytest.mark.usefixtures("shared_core")
    def test_waiting_for_anything_else_counts_whatever_other_threads_wait_for(self) -> None:
        """Where others held the cores, a GPU or a disk that took half a second was measured at a hundredth of it."""
        data, done = bytes(2**20), Event()

        def compute() -> None:
            while not done.is_set():
                hashlib.sha256(data)

        others = [Thread(target=compute) for _ in range(3)]
        for other in others:
            other.start()
        clock = cores.CoreClock()
        time.sleep(0.2)
        assert clock.seconds() >= 0.19
        done.set()
        for other in others:
            other.join()

    def test_what_a_thread_waited_before_the_clock_began_makes_no_time_negative(
            self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A speed of less than nothing ended `translate new` on two busy cores."""
        waited = iter([0.0, 9.0])
        monkeypatch.setattr(cores, "seconds_waited", lambda: next(waited))
        clock = cores.CoreClock()
        begin = time.thread_time()
        sum(range(100_000))
        least = time.thread_time() - begin
        assert clock.seconds() >= least > 0

    def test_the_end_is_told_from_what_is_left(self) -> None:
        stages = [Stage(resolution=64, images=100), Stage(resolution=64, images=1000)]
        now = datetime(2026, 11, 30, 22, 0)
        paces = [Pace(36.0, Loading())] * 2
        assert end_in_words(stages, paces, 50, now) == (
            "this stage 30 min, to the end 10 h: on 2026-12-01 about 08:30; 36.0 s/image, loading not counted")
        alone = end_in_words(stages[:1], [Pace(1.0, Loading())], 0, now)
        assert alone.startswith("to the end 2 min: today about 22:01")

    @pytest.mark.parametrize(("seconds", "text"), [
        (0.4, "0.4 s"), (9.97, "10 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"),
        (36_000, "10 h"), (172_800, "2.0 days"), (1e6, "12 days"), (1e9, "11,574 days")])
    def test_durations_are_in_the_unit_that_suits_them(self, seconds: float, text: str) -> None:
        assert format_duration(seconds) == text

    def test_a_plan_tells_the_hours_of_a_named_gpu(self, shared_pairs: Path, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        recipe = least_recipe(shared_pairs, memory={"plan": "split"},
                              stages=[{"resolution": 16, "images": num} for num in (8, 16)])
        file = tmp_path / "r.yaml"
        file.write_text(recipe.dump_yaml())
        assert call(monkeypatch, "plan", file, "--gpu", "rtx 4090", "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["speed"] == {"of": "RTX 4090, by its published numbers", "is_measured": False}
        assert found["usable_bytes"] == budget_of("24GB")
        chosen = [next(plan for plan in stage["plans"] if plan["plan"] == stage["chosen"]) for stage in found["stages"]]
        assert found["hours"] == pytest.approx(sum(plan["hours"] for plan in chosen))
        assert 0 < found["scoring_hours"] < found["hours"], "of six pairs that are held out"
        for stage, plan, told in zip(recipe.stages, chosen, found["stages"], strict=True):
            an_image = max(plan["seconds_an_image"], told["loading_seconds_an_image"])
            assert plan["hours"] == pytest.approx(stage.images * (
                an_image if recipe.workers else plan["seconds_an_image"] + told["loading_seconds_an_image"]) / 3600)
        assert not found["consistency"]

        # In words: what waits for what.
        planned = plan_for_gpu(recipe, gpu="RTX 4090")
        assert " of it scoring; " in planned.times[0]
        assert "scoring not counted" in replace(planned, scoring_share=None).times[0]
        assert planned.times[0].startswith("in all: about ") and planned.times[0].endswith(planned.gpu.speed.of)
        slow, unknown = ([loading] * len(recipe.stages) for loading in (Loading(9.0), Loading()))
        assert "held up by loading images" in replace(planned, loading=slow).times[1]
        assert "stage 1 loads 9.0 s/image" in replace(planned, loading=slow).times[1]
        assert "loading images is not counted" in replace(planned, loading=unknown).times[1]
        assert call(monkeypatch, "plan", file, "--gpu", "RTX 4080") == 2
        assert "did you mean RTX 4090" in capsys.readouterr().err
