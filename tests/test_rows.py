"""Row geometry: any rows of any operation, computed from the rows it says it needs, are those of the whole image."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from translate.networks import row_operations
from translate.networks.rows import Composed, Operation, Pad, Pointwise, RowRange, plan_strips

Whole = Callable[[Tensor], Tensor]
Case = tuple[Operation, Whole]


def weight(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def convolution(draw: random.Random, height: int) -> Case:
    kernel, groups = (draw.randint(1, 5), draw.randint(1, 4)), draw.choice([1, 2])
    arguments = {"stride": (draw.randint(1, 3), draw.randint(1, 2)), "dilation": (draw.randint(1, 2), 1),
                 "padding": (draw.randint(0, 5), draw.randint(0, 2)), "groups": groups}
    own = (weight(4, 4 // groups, *kernel), draw.choice([None, weight(4)]))
    return row_operations.convolution(*own, **arguments), lambda x: F.conv2d(x, *own, **arguments)


def named_padding(draw: random.Random, height: int) -> Case:
    own = (weight(3, 4, draw.randint(1, 5), draw.randint(1, 5)), weight(3))
    arguments = {"padding": draw.choice(["same", "valid"]), "dilation": draw.randint(1, 2)}
    return row_operations.convolution(*own, **arguments), lambda x: F.conv2d(x, *own, **arguments)


def transposed_convolution(draw: random.Random, height: int) -> Case:
    kernel, stride, dilation = draw.randint(1, 5), draw.randint(1, 4), draw.randint(1, 2)
    arguments = {"stride": stride, "padding": draw.randint(0, dilation * (kernel - 1)), "dilation": dilation,
                 "output_padding": draw.randint(0, max(stride, dilation) - 1), "groups": draw.choice([1, 2])}
    own = (weight(4, 2, kernel, 3), draw.choice([None, weight(2 * arguments["groups"])]))
    arguments["padding"] = (arguments["padding"], 1)
    return row_operations.transposed_convolution(*own, **arguments), lambda x: F.conv_transpose2d(x, *own, **arguments)


def average_pool(draw: random.Random, height: int) -> Case:
    kernel = draw.randint(1, 5)
    arguments = {"kernel": kernel, "stride": draw.choice([None, 1, 2, 3]), "padding": draw.randint(0, kernel // 2),
                 "count_include_pad": draw.random() < 0.5, "divisor_override": draw.choice([None, None, 7])}
    named = {"kernel_size" if name == "kernel" else name: value for name, value in arguments.items()}
    return row_operations.average_pool(**arguments), lambda x: F.avg_pool2d(x, **named)


def max_pool(draw: random.Random, height: int) -> Case:
    kernel, stride, dilation = draw.randint(1, 5), draw.choice([None, 1, 2, 3]), draw.randint(1, 2)
    padding = draw.randint(0, kernel // 2)
    return (row_operations.max_pool(kernel, stride, padding, dilation),
            lambda x: F.max_pool2d(x, kernel, stride, padding, dilation))


def nearest(draw: random.Random, height: int) -> Case:
    factor = draw.randint(1, 4)
    return row_operations.nearest(factor), lambda x: F.interpolate(x, scale_factor=factor, mode="nearest")


def bilinear(draw: random.Random, height: int) -> Case:
    align = draw.random() < 0.5
    where = draw.choice([{"size": (draw.randint(1, 60), draw.randint(1, 30))}, {"scale": draw.choice([2.0, 0.5, 1.7])}])
    named = {"scale_factor" if name == "scale" else name: value for name, value in where.items()}
    return (row_operations.bilinear(height, **where, align_corners=align),
            lambda x: F.interpolate(x, **named, mode="bilinear", align_corners=align))


def padding(draw: random.Random, height: int) -> Case:
    mode = draw.choice(["constant", "reflect", "replicate"])
    amounts = [draw.randint(0, 6) for _ in range(4)]
    if mode == "constant" and draw.random() < 0.5:
        amounts = [draw.randint(-3, 3) for _ in range(4)]
    above, below, left, right = amounts
    value = 0.7 if mode == "constant" else 0.0
    return (Pad(above, below, left, right, mode, value),
            lambda x: F.pad(x, (left, right, above, below), mode, value or None))


def pixel_shuffle(draw: random.Random, height: int) -> Case:
    return row_operations.pixel_shuffle(2), lambda x: F.pixel_shuffle(x, 2)


def pixel_unshuffle(draw: random.Random, height: int) -> Case:
    return row_operations.pixel_unshuffle(2), lambda x: F.pixel_unshuffle(x, 2)


def pointwise(draw: random.Random, height: int) -> Case:
    return Pointwise(torch.tanh), torch.tanh


def composed(draw: random.Random, height: int) -> Case:
    steps, whole = [], []
    for kind in draw.sample([convolution, nearest, padding, transposed_convolution], 3):
        step, function = kind(draw, height)
        steps.append(step)
        whole.append(function)

    def run(x: Tensor) -> Tensor:
        for function in whole:
            x = function(x)
        return x

    return Composed(tuple(steps)), run


Kind = Callable[[random.Random, int], Case]
KINDS = [convolution, named_padding, transposed_convolution, average_pool, max_pool, nearest, bilinear, padding,
         pixel_shuffle, pixel_unshuffle, pointwise, composed]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_rows_made_from_the_rows_needed_are_those_of_the_whole_image(kind: Kind) -> None:
    compared = 0
    for seed in range(60):
        draw = random.Random(seed)
        torch.default_generator.manual_seed(seed)  # that of the CPU alone, in a tenth of the time
        height = 2 * draw.randint(4, 16) + (kind is not pixel_unshuffle) * draw.randint(0, 1)
        x = torch.randn(2, 4, height, 18, dtype=torch.float64)
        operation, whole = kind(draw, height)
        try:
            y = whole(x)
        except RuntimeError:
            continue  # torch refuses this combination: a kernel larger than the image
        assert operation.out_height(height) == y.shape[2]
        for _ in range(6):
            lo = draw.randrange(y.shape[2])
            want = RowRange(lo, draw.randint(lo + 1, min(y.shape[2], lo + draw.choice([1, 3, 99]))))
            need = operation.need(want, height)
            assert 0 <= need.start <= need.stop <= height
            part = operation.apply(need.slice_of(x), want, height)
            torch.testing.assert_close(part, y[:, :, want.start:want.stop], rtol=1e-12, atol=1e-12)
            compared += 1
    assert compared > 100


def test_a_convolution_needs_no_more_rows_than_its_kernel_reaches() -> None:
    layer = row_operations.convolution(weight(1, 1, 7, 7), padding=3)
    assert layer.need(RowRange(100, 150), 1000) == RowRange(97, 153)
    assert layer.need(RowRange(0, 50), 1000) == RowRange(0, 53)
    assert layer.need(RowRange(950, 1000), 1000) == RowRange(947, 1000)


def test_single_precision_bilinear_places_rows_as_torch_does_far_down_an_image() -> None:
    """torch computes a row's place in single precision: far down, an exact place would be another one."""
    height, scale = 4001, 1.7
    x = torch.rand(1, 1, height, 4)
    whole = F.interpolate(x, scale_factor=scale, mode="bilinear")
    operation = row_operations.bilinear(height, scale=scale)
    want = RowRange(operation.out_height(height) - 40, operation.out_height(height))
    part = operation.apply(operation.need(want, height).slice_of(x), want, height)
    torch.testing.assert_close(part, whole[:, :, want.start:], rtol=0, atol=1e-6)


def test_every_row_of_every_level_is_owned_by_exactly_one_strip_that_computes_it() -> None:
    for seed in range(80):
        draw = random.Random(seed)
        height = draw.randint(8, 40)
        kinds = draw.choices([convolution, nearest, transposed_convolution, padding], k=4)
        steps = [kind(draw, height)[0] for kind in kinds]
        chain = Composed(tuple(steps))
        if min(chain.heights(height)) < 7:
            continue
        strips = plan_strips(chain, height, draw.choice([1, 2, 5, 1000]))
        for level, whole in enumerate(chain.heights(height)):
            ends = [(strip.owned[level].start, strip.owned[level].stop) for strip in strips]
            assert [ends[0][0], ends[-1][1]] == [0, whole]
            assert all(before[1] == after[0] for before, after in pairwise(ends))
            for strip in strips:
                rows_, own = strip.rows[level], strip.owned[level]
                assert len(own) >= 0 and (len(own) == 0 or rows_.start <= own.start <= own.stop <= rows_.stop)
                if level < len(steps):
                    need = steps[level].need(strip.rows[level + 1], whole)
                    assert len(need) == 0 or (rows_.start <= need.start and need.stop <= rows_.stop)


def test_there_are_never_more_strips_than_rows() -> None:
    assert len(plan_strips(Composed(()), 5, 8)) == 5
    assert len(plan_strips(Composed((row_operations.nearest(2),)), 5, 8)) == 8


def test_the_modules_example_has_the_rows_it_says() -> None:
    """Three 3×3 convolutions with padding 1 on fifteen rows in three strips: the table that opens `rows.py`."""
    chain = Composed(tuple(row_operations.convolution(weight(1, 1, 3, 3), padding=1) for _ in range(3)))
    strips = zip(*(strip.rows for strip in plan_strips(chain, 15, 3)), strict=True)
    assert [[(rows.start, rows.stop) for rows in at_position] for at_position in strips] == [
        [(0, 8), (2, 13), (7, 15)], [(0, 7), (3, 12), (8, 15)], [(0, 6), (4, 11), (9, 15)],
        [(0, 5), (5, 10), (10, 15)]]
