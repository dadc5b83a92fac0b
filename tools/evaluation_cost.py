"""What evaluating cost a training: its share of the time, from what the run recorded.

    python tools/evaluation_cost.py runs/earth

Prints one line with machine, versions and date, and what writing the report took beside it. Stretches whose speed is
not recorded (the first after a start) are left out on both sides of the share.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import os
import platform
from pathlib import Path

import torch

from translate import __version__
from translate.foreign import read_lines
from translate.recipe import load_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    records = read_lines(run / "metrics.jsonl")
    trained = [record for record in records if record["kind"] == "train"]
    stretches = [(before["images"], after["images"], after["images_per_second"])
                 for before, after in itertools.pairwise(trained) if after["images_per_second"]]
    elapsed = sum((stop - start) / speed for start, stop, speed in stretches)
    scored = [record for record in records if record["kind"] == "evaluation"
              and any(start < record["images"] <= stop for start, stop, _ in stretches)]
    if not scored:
        parser.error(f"{run}: no evaluation between two records of its losses")
    seconds = sum(record["seconds"] for record in scored)
    reports = [event["seconds"] for event in read_lines(run / "events.jsonl") if event["what"] == "report"]
    print(f"{load_recipe(run / 'recipe.yaml').name}: {len(scored)} evaluations of {scored[0]['num_held_out']} images "
          f"took {seconds:.1f} s of {elapsed:.1f} s, {seconds / (elapsed - seconds):.1%} of the training itself; "
          f"{len(reports)} reports {sum(reports):.1f} s; "
          f"Diptych {__version__}, torch {torch.__version__}, {os.cpu_count()} cores ({platform.machine()}), "
          f"{datetime.date.today()}")


if __name__ == "__main__":
    main()
