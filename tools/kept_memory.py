"""CPU time, page faults and memory of training steps, with and without the allocator keeping what a step frees.

    python tools/kept_memory.py [--recipe terrain] [--seconds 20]

Needs the recipe's card. Each way trains in a process of its own for so much CPU time of one thread, taking turns twice;
what a training begins with, such as its imports, counts among page faults and in the memory.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from equal_time import Part, machine, trained

from translate.host.available_memory import keep_what_is_freed
from translate.recipe import find_recipe, load_recipe

TURNS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="terrain")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run")
    parser.add_argument("--way", choices=("as glibc does", "kept"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.way is None:
        print(machine())
        for way in ("as glibc does", "kept") * TURNS:
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--way", way], check=True)
        return
    torch.set_num_threads(1)
    if asked.way == "kept":
        keep_what_is_freed()
    recipe = load_recipe(find_recipe(asked.recipe))
    _, images = trained(recipe, [Part(1.0, recipe.stages[0])], 0, asked.seconds)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(f"{asked.way:14} {1000 * asked.seconds / sum(images):5.0f} ms of CPU time an image, "
          f"{used.ru_minflt / sum(images):6,.0f} page faults an image, {used.ru_maxrss / 1024:,.0f} MiB at most",
          flush=True)


if __name__ == "__main__":
    main()
