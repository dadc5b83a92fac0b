"""Compile Triton's kernels of norm → act → pad for a card that need not be there: a compiler refuses more than the
interpreter does.

    python tests/compile_kernels.py 80        # a compute capability, times ten
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.pop("TRITON_INTERPRET", None)  # before the import

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from translate.networks.normalised import kernels

CHOICES = ("NORM", "GIVEN", "SCALED", "SLOPED", "BESIDE", "PADDED", "RUNNING")
IMAGES = ("z_ptr", "y_ptr", "beside_ptr", "gradient_ptr", "dz_ptr")
ONES = ("left", "right", "top", "bottom", "per_sample", "splits")  # whole numbers that are 1 are compiled in


def main(capability: int) -> None:
    for name in ("moments", "finished_moments", "applied", "sums", "finished_sums", "gradient"):
        for image in ("fp16", "bf16", "fp32", "fp64"):
            for chosen in ({}, dict.fromkeys(CHOICES, True), dict.fromkeys(CHOICES, True) | {"GIVEN": False}):
                for ones in ((), ONES):
                    compile_kernel(getattr(kernels, name), image, chosen, ones, capability)


def compile_kernel(kernel: triton.JITFunction, image: str, chosen: dict[str, bool], ones: tuple[str, ...],
                   capability: int) -> None:
    """Compile for images of a format, for some choices, with some arguments that are 1."""
    exact, finishes = "fp64" if image == "fp64" else "fp32", kernel.__name__.startswith("finished")
    constants = {"ACC": getattr(tl, "float64" if image == "fp64" else "float32"), "BLOCK_P": 64, "BLOCK_S": 64,
                 "BLOCK_C": 16 if finishes else 64, **{name: chosen.get(name, False) for name in CHOICES},
                 **dict.fromkeys(ones, 1)}
    kinds = {name: "constexpr" if name in constants else f"*{image if name in IMAGES else exact}"
             if name.endswith("_ptr") else "fp32" if name in ("eps", "slope", "share") else "i32"
             for name in kernel.arg_names}
    places = {(place,): constants[name] for place, name in enumerate(kernel.arg_names) if name in constants}
    triton.compile(ASTSource(fn=kernel, signature=kinds, constexprs=places), target=GPUTarget("cuda", capability, 32))


if __name__ == "__main__":
    main(int(sys.argv[1]))
