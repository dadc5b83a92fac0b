"""Measure predicted against real memory, and the time of every memory plan; writes docs/benchmarks.md.

    python tools/bench.py                           # what this machine does in minutes
    python tools/bench.py --sizes 256 512 1024 2000 4000      # on a GPU

On a CPU the real peak is the live bytes of a real step, counted on real tensors; on CUDA it is torch's own
`max_memory_allocated` (what tensors took) and `max_memory_reserved` (what the allocator took for them). Each plan's
time is that of its fastest step, relative to the plain step of the same run where that fits, else to `split`; the plans
take turns, so that whatever else the machine does meanwhile meets them all.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gc
import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from accelerate import Accelerator

from translate.data import Batch
from translate.errors import DoesNotFit
from translate.networks import PatchGANConfig, ResNetConfig, UNetConfig, memory
from translate.networks.live_bytes import LiveBytes
from translate.optimizers import Adam
from translate.precision import choose_precision
from translate.training.plan import Prediction, predict_step
from translate.training.step_on_meta import parameters_of
from translate.training.update import Update
from translate.translators import CycleGANConfig, Pix2PixConfig

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Row:
    """One step measured. Bytes and seconds; None: not measured."""

    prediction: Prediction
    peak: int | None = None
    reserved: int | None = None
    seconds: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", help="square images, px")
    parser.add_argument("--width", type=int, help="channels of all networks (published: 64)")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    parser.add_argument("--rounds", type=int, default=3, help="timed steps of each plan")
    parser.add_argument("--out", type=Path, default=PAGE)
    asked = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    sizes = asked.sizes or ([256, 512, 1024, 2000, 4000] if on_gpu else [256, 512])
    width = asked.width or (64 if on_gpu else 16)
    precision = choose_precision(asked.precision, device)
    sections = []
    games = translators(width)
    for name, config in games.items():
        for size in sizes:
            rows = measure_all(config, size, precision, device, asked.rounds)
            sections.append(f"### {name}, {size}×{size}\n\n{table(rows, on_gpu)}\n")
            print(sections[-1], flush=True)
            asked.out.write_text(page(sections, len(sizes) * len(games), width, precision, device), encoding="utf-8")


def translators(width: int) -> dict[str, Any]:
    """CycleGAN with ResNet-9 and pix2pix with the U-Net, of so many channels."""
    patch = PatchGANConfig(width=width)
    return {"CycleGAN": CycleGANConfig(generator=ResNetConfig(width=width), discriminator=patch),
            "pix2pix": Pix2PixConfig(generator=UNetConfig(width=width, norm="instance"), discriminator=patch)}


def measure_all(config: Any, size: int, precision: Any, device: torch.device, num_rounds: int) -> list[Row]:
    """Every plan, as far as it fits, the fastest of several rounds."""
    rows: dict[str, Row] = {}
    for _ in range(num_rounds):
        for plan in memory.PLANS.values():
            before = rows.get(plan.name) or Row(predict_step(config, size, plan, precision, cast(Any, device.type)))
            if rows.get(plan.name) == before and before.seconds is None:
                continue  # it did not fit
            rows[plan.name] = before
            if before.prediction.peak_bytes < 0.7 * size_of(device):
                with contextlib.suppress(torch.OutOfMemoryError, DoesNotFit):
                    peak, reserved, seconds = measure(config, size, plan, precision, device)
                    rows[plan.name] = Row(before.prediction, peak, reserved, min(seconds, before.seconds or seconds))
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return list(rows.values())


def size_of(device: torch.device) -> int:
    """The memory of the device, or of the computer; bytes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def measure(config: Any, size: int, plan: memory.Plan, precision: Any,
            device: torch.device) -> tuple[int, int | None, float]:
    """(peak bytes, reserved bytes on CUDA, seconds): of the second and the third step, the first is not counted."""
    torch.manual_seed(0)
    translator = config.build(3, 3)
    translator.to(device)
    for network in translator.networks.values():
        memory.apply(plan, network)
    optimizers = {phase: Adam().build(parameters_of(translator, phase)) for phase in translator.phases}
    batch = Batch(*(torch.rand(1, 3, size, size, device=device) * 2 - 1 for _ in range(2)), (0,))
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="fp16" if precision == "fp16" else "no")

    def step() -> float:
        begin = time.perf_counter()
        update = Update(translator, optimizers, accelerator, plan, precision)
        translator.step(batch, update)
        if update.notes:
            raise torch.OutOfMemoryError(update.notes[0])
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    if device.type == "cuda":
        step()
        torch.cuda.reset_peak_memory_stats()
        seconds = step()
        return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved(), seconds
    counter = LiveBytes("cpu")
    step()
    with counter:
        counter.add([batch.a, batch.b, *(tensor for module in translator.modules.values()
                                         for tensor in module.state_dict().values())])
        for phase, optimizer in optimizers.items():
            counter.add(parameter.grad for parameter in parameters_of(translator, phase) if parameter.grad is not None)
            counter.add(value for state in optimizer.state.values() for value in state.values() if value.ndim)
        step()
    return counter.peak, None, step()


def table(rows: list[Row], on_gpu: bool) -> str:
    """The rows as Markdown."""
    def mib(value: int | None) -> str:
        return "unmeasured" if value is None else f"{value / 2**20:,.0f}"

    base = next((row.seconds for row in rows if row.seconds is not None), 0.0)
    counted = "max allocated" if on_gpu else "counted"
    lines = [f"| plan | predicted, MiB | {counted}, MiB | ratio | reserved on CUDA, MiB | compute | time |",
             "|---|---|---|---|---|---|---|"]
    for row in rows:
        ratio = f"{row.peak / row.prediction.peak_bytes:.3f}" if row.peak else "–"
        took = f"{row.seconds / base:.2f}×" if row.seconds else "does not fit"
        lines.append(f"| {row.prediction.plan.name} | {mib(row.prediction.peak_bytes)} | {mib(row.peak)} | {ratio} | "
                     f"{mib(row.reserved)} | {row.prediction.compute:.2f}× | {took} |")
    return "\n".join(lines)


def page(sections: list[str], num_asked: int, width: int, precision: str, device: torch.device) -> str:
    """The whole of docs/benchmarks.md, as far as it has got."""
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name() if on_gpu else f"{platform.processor() or platform.machine()} CPU"
    machine = (f"{datetime.date.today().isoformat()}, {name}, {torch.get_num_threads()} threads, torch "
               f"{torch.__version__}, Python {platform.python_version()}; {precision}, width {width}, batch 1, "
               "identity loss on. Times are relative to the first plan of the same table.")
    missing = [] if on_gpu else ["**GPU columns are unmeasured**: there was no GPU. `make bench` on a machine with one "
                                 "fills them; what is predicted for CUDA is in [memory.md](memory.md).", ""]
    done = "" if len(sections) == num_asked else f", ended after {len(sections)} of {num_asked} tables"
    written = (f"Written by `{' '.join(['tools/bench.py', *sys.argv[1:]])}`{done}. Every stage of the recipes for "
               "2000×2000 px on a GPU: [benchmarks-recipes.md](benchmarks-recipes.md).")
    return "\n".join(["# Benchmarks", "", written, "", machine, "", *missing, *sections])


if __name__ == "__main__":
    main()
