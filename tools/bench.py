"""Steps against their floor: the time and memory of every memory plan on a GPU; writes docs/benchmarks.md.

    python tools/bench.py                                  # on a GPU, in at most eight minutes
    python tools/bench.py --public ../pytorch-CycleGAN-and-pix2pix       # and the public code's own step, taking turns

First whether the gradients are right, and the ten longest kernels at 1024 px; then every plan at every size; then the
public code of pix2pix and CycleGAN, a copy of which is named and read, and nothing of it kept. The floor of a step is
what its multiplications and its bytes must take at the speed that is published of the GPU, by the share that can be
reached of it (translate/training/gpus.py). What there is no time for is left out and said. Without a GPU the floors are
those of an H200, and nothing is measured. With --public only that is done: the public code's step and ours on the CPU.

The newest measured run stands first on the page, and those before it stay; floors alone come last.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import datetime
import gc
import io
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from accelerate import Accelerator

from translate.data import Batch
from translate.errors import DoesNotFit, UsageError
from translate.networks import PatchGANConfig, ResNetConfig, UNetConfig, memory
from translate.optimizers import Adam, Optimizers
from translate.precision import Format
from translate.recipe import Stage
from translate.training.built import parameters_of
from translate.training.gpus import gpu_named
from translate.training.speeds import Speed, measured, published
from translate.training.step_on_meta import Measured, Networks, StepOnMeta
from translate.training.update import Update
from translate.translators import CycleGANConfig, Pix2PixConfig, Translator

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
SIZES = ((1024, 1), (256, 1), (256, 4), (512, 1), (2000, 1))  # px and batch, the most telling first
WARM, TIMED = 2, 3  # steps
NO_GPU = "not measured"


@dataclass(frozen=True)
class Row:
    """One plan at one size. Bytes and seconds a step; None: not measured."""

    plan: str
    step: Measured
    floor: float
    predicted: float
    seconds: float | None = None
    allocated: int | None = None
    reserved: int | None = None


@dataclass
class Report:
    """A section of the page in the making, and the clock."""

    heading: str
    deadline: float
    out: Path
    parts: list[str] = field(default_factory=list)

    @property
    def is_late(self) -> bool:
        return time.monotonic() > self.deadline

    def add(self, part: str) -> None:
        """Print a part, and write the page as far as it has got."""
        print(part, flush=True)
        self.parts.append(part)
        self.out.write_text(page(self.heading, self.parts, self.out), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--public", type=Path, metavar="PATH", help="a copy of pytorch-CycleGAN-and-pix2pix")
    parser.add_argument("--width", type=int, default=64, help="channels of all networks")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp16")
    parser.add_argument("--sizes", type=int, nargs="+", help="px; all where none is named")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--out", type=Path, default=PAGE)
    asked = parser.parse_args()
    device = torch.device("cuda") if torch.cuda.is_available() else None
    name = torch.cuda.get_device_name() if device else f"{NO_GPU}, floors of an H200"
    on_cpu = device is None and asked.public is not None  # which is measured, and stands by itself
    if on_cpu:
        name = f"a CPU ({torch.backends.cpu.get_cpu_capability()})"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    today = datetime.date.today().isoformat()
    report = Report(f"{today}, {name}, commit {commit.strip() or 'unknown'}",
                    time.monotonic() + 60 * asked.minutes, asked.out)
    precision = "fp32" if on_cpu else asked.precision
    words = ["COPY" if word == str(asked.public) else word for word in sys.argv[1:]]
    report.add(f"`{' '.join(['tools/bench.py', *words])}`; torch {torch.__version__}, Python "
               f"{platform.python_version()}; {precision}, width {asked.width}, identity loss on, random images.")

    # What must be right, and what takes long, before what takes how long.
    cyclegan, pix2pix = games(asked.width)
    public = {"cycle_gan": cyclegan, "pix2pix": pix2pix}
    if on_cpu:
        report.add(beside_public_on_a_cpu(asked.public, public))
        return
    if device:
        report.add(correctness(device))
        report.add(longest_kernels(cyclegan, device, asked.precision))
    floors, here = speeds_for(name, device, asked.precision)
    for size, batch in SIZES:
        if not asked.sizes or size in asked.sizes:
            title = f"CycleGAN, {size}×{size} px, batch {batch}"
            rows = [row(cyclegan, plan, size, batch, asked.precision, device, floors, here, report)
                    for plan in memory.PLANS.values()]
            report.add(f"**{title}**\n\n{table(rows)}")
    report.add(beside_public(asked.public, public, asked.precision, device, report))


def games(width: int) -> tuple[CycleGANConfig, Pix2PixConfig]:
    """CycleGAN with ResNet-9, and pix2pix with the U-Net of 8 levels, as the public code has them."""
    patch = PatchGANConfig(width=width)
    return (CycleGANConfig(generator=ResNetConfig(width=width), discriminator=patch),
            Pix2PixConfig(generator=UNetConfig(width=width, norm="batch"),
                          discriminator=PatchGANConfig(width=width, norm="batch")))


def speeds_for(name: str, device: torch.device | None, precision: Format) -> tuple[Speed, Speed]:
    """By what the floor is counted, and by what a step is predicted."""
    if device is None:
        return (published(gpu_named("H200"), precision),) * 2
    here = measured(device, precision)
    try:
        return published(gpu_named(name), precision), here
    except UsageError:
        return here, here  # a GPU that is not in the table


def row(config: Any, plan: memory.MemoryPlan, size: int, batch: int, precision: Format, device: torch.device | None,
        floors: Speed, here: Speed, report: Report) -> Row:
    """One plan, measured where there is a GPU with room for it and time is left."""
    step = StepOnMeta(Networks(translator=config, optimizer=Optimizers()), (3, 3),
                      Stage(resolution=size, images=batch, batch_size=batch)).measure(plan, precision, "cuda", 1)
    found = Row(plan.name, step, floors.floor(step.work), here.seconds(step.work))
    if device is None or report.is_late or step.peak_bytes > 0.9 * torch.cuda.get_device_properties(0).total_memory:
        return found
    fresh()
    with contextlib.suppress(torch.OutOfMemoryError, DoesNotFit):
        step_once = our_step(config, size, batch, plan, precision, device)
        seconds = fastest([step_once], TIMED)[0]
        return Row(found.plan, step, found.floor, found.predicted, seconds, torch.cuda.max_memory_allocated(),
                   torch.cuda.max_memory_reserved())
    return found


def our_step(config: Any, size: int, batch: int, plan: memory.MemoryPlan, precision: Format, device: torch.device
             ) -> Callable[[], None]:
    """A step that can be made again and again, warm. Raises what torch does where it does not fit."""
    torch.manual_seed(0)
    translator: Translator = config.build(3, 3)
    translator.to(device)
    for network in translator.networks.values():
        memory.apply(plan, network)
    optimizers = {phase: Adam().build(parameters_of(translator, phase)) for phase in translator.phases}
    images = [torch.rand(batch, 3, size, size, device=device) * 2 - 1 for _ in range(2)]
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="fp16" if precision == "fp16" else "no")

    def step() -> None:
        update = Update(translator, optimizers, accelerator, plan, precision)
        translator.step(Batch(images[0], images[1], tuple(range(batch))), update)
        if update.notes:
            raise torch.OutOfMemoryError(update.notes[0])

    for _ in range(WARM):
        step()
    return step


def fastest(steps: list[Callable[[], None]], rounds: int) -> list[float]:
    """The seconds of the fastest of several rounds, in which steps take turns; the peak is counted from here on.

    Without a GPU seconds of CPU time, which other processes disturb less.
    """
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    taken: list[list[float]] = [[] for _ in steps]
    for _ in range(rounds):
        for step, times in zip(steps, taken, strict=True):
            synchronise()
            begin = clock()
            step()
            synchronise()
            times.append(clock() - begin)
    return [min(times) for times in taken]


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def fresh() -> None:
    """Nothing of before in memory."""
    gc.collect()
    torch.cuda.empty_cache()


def correctness(device: torch.device) -> str:
    """How far gradients on this device are from a plain step in float64 on the CPU, under every plan."""
    config = CycleGANConfig(generator=ResNetConfig(width=8, blocks=2), discriminator=PatchGANConfig(width=8), pool=0)
    torch.manual_seed(0)
    first = config.build(3, 3)
    images = [torch.rand(2, 3, 72, 80) * 2 - 1 for _ in range(2)]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def gradients(plan: str, place: torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
        translator = copy.deepcopy(first)
        translator.to(place)
        for network in translator.modules.values():
            network.to(dtype)
        for network in translator.networks.values():
            memory.apply(memory.PLANS[plan], network)  # type: ignore[index]
        stepping: dict[str, torch.optim.Optimizer] = {
            phase: torch.optim.SGD(list(parameters_of(translator, phase)), lr=0.0) for phase in translator.phases}
        update = Update(translator, stepping, Accelerator(cpu=place.type == "cpu"),
                        memory.PLANS[plan], "fp32")  # type: ignore[index]
        a, b = (image.to(place, dtype) for image in images)
        translator.step(Batch(a, b, (0, 1)), update)
        return [parameter.grad.double().cpu() for phase in translator.phases
                for parameter in parameters_of(translator, phase) if parameter.grad is not None]

    truth = gradients("plain", torch.device("cpu"), torch.float64)
    scale = max(each.norm() for each in truth)
    worst = {}
    for plan in memory.PLANS:
        found = gradients(plan, device, torch.float32)
        worst[plan] = max(float((a - b).norm() / scale) for a, b in zip(found, truth, strict=True))
    torch.backends.cudnn.allow_tf32 = True
    said = ", ".join(f"{plan} {error:.1e}" for plan, error in worst.items())
    return (f"Gradients in float32 on this device against float64 on the CPU (norm of the difference, relative to the "
            f"largest): {said}.")


def longest_kernels(config: Any, device: torch.device, precision: Format) -> str:
    """The ten kernels that take the most of a step at 1024 px under plan `split`."""
    fresh()
    step = our_step(config, 1024, 1, memory.PLANS["split"], precision, device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        synchronise()
    kernels = sorted(profile.key_averages(), key=lambda each: -each.self_device_time_total)
    total = sum(each.self_device_time_total for each in kernels) or 1.0
    lines = ["**The longest kernels at 1024 px, plan `split`**", "", "| kernel | times | ms | share |",
             "|---|---|---|---|"]
    for each in kernels[:10]:
        name = re.sub(r"[|`\n]", " ", each.key)[:90]
        took = each.self_device_time_total
        lines.append(f"| `{name}` | {each.count} | {took / 1e3:.1f} | {took / total:.1%} |")
    count = sum(each.count for each in kernels)
    return "\n".join([*lines, "", f"In all {count:,} kernels and copies, {total / 1e3:.0f} ms on the device."])


def beside_public(public: Path | None, ours: dict[str, Any], precision: Format, device: torch.device | None,
                  report: Report) -> str:
    """The public code's own steps and ours, taking turns in this process."""
    title = "**The public code's own step and ours**, batch 1, plan `split`, taking turns"
    if public is None or device is None:
        return f"{title}: {NO_GPU} (--public names a copy of that code)."
    lines = [f"{title}. Public under autocast: all of its step in it, without a scaler.", "",
             "| step | px | public fp32, ms | public autocast, ms | ours, ms | fp32 / ours | autocast / ours |",
             "|---|---|---|---|---|---|---|"]
    for model, config in ours.items():
        for size in (256, 1024) if model == "cycle_gan" else (256,):
            if report.is_late:
                return "\n".join([*lines, "", "The rest: no time was left."])
            fresh()
            theirs = public_step(public, model, size, device)
            full, low, mine = fastest([theirs, under_autocast(theirs), our_step(
                config, size, 1, memory.PLANS["split"], precision, device)], TIMED)
            lines.append(f"| {model} | {size} | {full * 1e3:.0f} | {low * 1e3:.0f} | {mine * 1e3:.0f} | "
                         f"{full / mine:.2f} | {low / mine:.2f} |")
    return "\n".join(lines)


def beside_public_on_a_cpu(public: Path, ours: dict[str, Any]) -> str:
    """What our step takes of the public code's: ratios alone, as seconds of a CPU say nothing of another one."""
    cpu = torch.device("cpu")
    plans = [memory.PLANS[name] for name in ("plain", "split")]
    lines = ["**Our step on a CPU by the public code's**, CPU time, 256 px, batch 1, fp32, "
             f"{torch.get_num_threads()} of its threads, {torch.backends.cpu.get_cpu_capability()}, the fastest of "
             f"{TIMED} each, taking turns", "",
             "| step | plan `plain` | plan `split` |", "|---|---|---|"]
    for model, config in ours.items():
        theirs, *mine = fastest([public_step(public, model, 256, cpu),
                                 *(our_step(config, 256, 1, plan, "fp32", cpu) for plan in plans)], TIMED)
        lines.append(f"| {model} | {' | '.join(f'{seconds / theirs:.2f}' for seconds in mine)} |")
    return "\n".join(lines)


def public_step(public: Path, model: str, size: int, device: torch.device) -> Callable[[], None]:
    """A step of the public code as its own options and its own classes make it."""
    sys.path.insert(0, str(public.resolve()))
    arguments = ["--dataroot", "none", "--name", "bench", "--model", model]
    if "gpu_ids" in (public / "options" / "base_options.py").read_text(encoding="utf-8"):
        arguments += ["--gpu_ids", "0" if device.type == "cuda" else "-1"]
    before, faster = sys.argv, torch.backends.cudnn.benchmark
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        sys.argv = ["train.py", *arguments, "--checkpoints_dir", folder]
        from models import create_model
        from options.train_options import TrainOptions

        options = TrainOptions().parse()
        if not hasattr(options, "device"):
            options.device = device
        made = create_model(options)
        made.setup(options)
    sys.argv, torch.backends.cudnn.benchmark = before, faster
    a, b = (torch.rand(1, 3, size, size) * 2 - 1 for _ in range(2))

    def step() -> None:
        made.set_input({"A": a, "B": b, "A_paths": [], "B_paths": []})
        made.optimize_parameters()

    for _ in range(WARM):
        step()
    return step


def under_autocast(step: Callable[[], None]) -> Callable[[], None]:
    """The same step in bf16, as autocast computes it."""
    def again() -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            step()

    for _ in range(WARM):
        again()
    return again


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    def ms(seconds: float | None) -> str:
        return NO_GPU if seconds is None else f"{seconds * 1e3:,.0f}"

    def mib(value: int | None) -> str:
        return NO_GPU if value is None else f"{value / 2**20:,.0f}"

    lines = ["| plan | TFLOP | GB moved | kernels | floor, ms | predicted, ms | measured, ms | measured / floor | "
             "predicted / measured | peak predicted, MiB | allocated, MiB | reserved, MiB |",
             "|---" * 12 + "|"]
    for each in rows:
        work, seconds = each.step.work, each.seconds
        ratios = (NO_GPU, NO_GPU) if seconds is None else (f"{seconds / each.floor:.2f}",
                                                           f"{each.predicted / seconds:.2f}")
        lines.append(f"| `{each.plan}` | {work.flops / 1e12:.1f} | {work.moved_bytes / 1e9:.1f} | {work.kernels:,} | "
                     f"{ms(each.floor)} | {ms(each.predicted)} | {ms(seconds)} | {ratios[0]} | {ratios[1]} | "
                     f"{mib(each.step.peak_bytes)} | {mib(each.allocated)} | {mib(each.reserved)} |")
    return "\n".join(lines)


def page(heading: str, parts: list[str], place: Path) -> str:
    """The page: this run, and the runs before it that were measured, as they stood there."""
    earlier = [f"## {section.strip()}" for section in sections(place)
               if not section.startswith(heading) and NO_GPU not in section.splitlines()[0]]
    opening = ("# Benchmarks\n\nWritten by `tools/bench.py`, run by run; the newest measured one stands first. Every "
               "stage of the recipes for 2000×2000 px on a GPU: [benchmarks-recipes.md](benchmarks-recipes.md).")
    now = "\n\n".join([f"## {heading}", *parts])
    return "\n\n".join([opening, *([*earlier, now] if NO_GPU in heading else [now, *earlier])]) + "\n"


def sections(place: Path) -> Iterator[str]:
    """The runs of a page, without the marks of their headings."""
    if place.is_file():
        yield from re.split(r"^## ", place.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]


if __name__ == "__main__":
    main()
