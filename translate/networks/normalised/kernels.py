"""Triton's kernels of `translate.networks.normalised`, for images in channels_last: rows of pixels, each C numbers.

    moments, finished_moments      µ and r of every channel, in two steps: of spans of pixels, then of all of them
    applied                        y from z, µ and r: norm → act → pad (and a residual added), one write a place
    sums, finished_sums            dβ and dγ, in the same two steps
    gradient                       dz

Sums go over spans in a fixed order, and no program adds to what another one writes: so the same numbers come out every
time. They are float32 between load and store (float64 for float64). A tile is BLOCK_P pixels × BLOCK_C channels.
"""

from __future__ import annotations

# mypy: disallow-untyped-defs=False
import triton
import triton.language as tl


@triton.jit
def moments(z_ptr, mean_ptr, m2_ptr, channels, pixels, span, splits,
            ACC: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """Mean and sum of squared deviations of one span of a group's pixels (Chan, Golub & LeVeque 1983)."""
    split, group = tl.program_id(0), tl.program_id(2)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    first, last = split * span, tl.minimum(split * span + span, pixels)
    count = tl.zeros((), dtype=ACC)
    mean = tl.zeros((BLOCK_C,), dtype=ACC)
    m2 = tl.zeros((BLOCK_C,), dtype=ACC)
    for start in range(first, last, BLOCK_P):
        pixel = start + tl.arange(0, BLOCK_P)
        inside = (pixel < last)[:, None] & (channel < channels)[None, :]
        place = (group * pixels.to(tl.int64) + pixel)[:, None] * channels + channel[None, :]
        z = tl.load(z_ptr + place, mask=inside, other=0.0).to(ACC)

        # Of this tile, centred by its own mean; then together with those before.
        num = tl.minimum(last - start, BLOCK_P).to(ACC)
        own = tl.sum(z, axis=0) / num
        off = tl.where(inside, z - own[None, :], 0.0)
        total = count + num
        shift = own - mean
        mean += shift * (num / total)
        m2 += tl.sum(off * off, axis=0) + shift * shift * (count * num / total)
        count = total
    out = (group * splits + split) * channels + channel
    tl.store(mean_ptr + out, mean, mask=channel < channels)
    tl.store(m2_ptr + out, m2, mask=channel < channels)


@triton.jit
def finished_moments(mean_ptr, m2_ptr, out_mean_ptr, out_factor_ptr, running_mean_ptr, running_var_ptr, share, eps,
                     channels, pixels, span, splits, RUNNING: tl.constexpr, ACC: tl.constexpr,
                     BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr):
    """µ and r of a group of all its spans; running statistics advance as torch's do, the variance unbiased."""
    group = tl.program_id(1)
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    split = tl.arange(0, BLOCK_S)
    inside = (split < splits)[:, None] & (channel < channels)[None, :]
    place = (group * splits + split)[:, None] * channels + channel[None, :]
    means = tl.load(mean_ptr + place, mask=inside, other=0.0)
    m2 = tl.load(m2_ptr + place, mask=inside, other=0.0)

    num = tl.maximum(tl.minimum(span, pixels - split * span), 0).to(ACC)[:, None]
    mean = tl.sum(means * num, axis=0) / pixels
    off = tl.where(inside, means - mean[None, :], 0.0)
    m2_of_all = tl.sum(m2 + off * off * num, axis=0)
    var = m2_of_all / pixels

    own, present = group * channels + channel, channel < channels
    tl.store(out_mean_ptr + own, mean, mask=present)
    tl.store(out_factor_ptr + own, 1.0 / tl.sqrt(var + eps), mask=present)
    if RUNNING:
        before = tl.load(running_mean_ptr + channel, mask=present)
        tl.store(running_mean_ptr + channel, before + (mean.to(before.dtype) - before) * share, mask=present)
        before = tl.load(running_var_ptr + channel, mask=present)
        unbiased = (m2_of_all / (pixels - 1)).to(before.dtype)
        tl.store(running_var_ptr + channel, before + (unbiased - before) * share, mask=present)


@triton.jit
def _factor_of(spread_ptr, own, present, eps, GIVEN: tl.constexpr, ACC: tl.constexpr):
    """r: of σ² where statistics are given, else it is what is there."""
    spread = tl.load(spread_ptr + own, mask=present, other=1.0).to(ACC)
    return 1.0 / tl.sqrt(spread + eps) if GIVEN else spread


@triton.jit
def applied(z_ptr, y_ptr, beside_ptr, mean_ptr, spread_ptr, scale_ptr, shift_ptr, eps, slope,
            channels, height, width, padded_height, padded_width, left, top, per_sample,
            NORM: tl.constexpr, GIVEN: tl.constexpr, SCALED: tl.constexpr, SLOPED: tl.constexpr,
            BESIDE: tl.constexpr, ACC: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """y of one tile of a sample's places, padding among them: each is gathered from the pixel it mirrors."""
    sample = tl.program_id(2)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    place = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    present = channel < channels
    inside = (place < padded_height * padded_width)[:, None] & present[None, :]

    # Which pixel a place mirrors: at the first border, then at the last.
    row, column = tl.abs(place // padded_width - top), tl.abs(place % padded_width - left)
    row, column = height - 1 - tl.abs(height - 1 - row), width - 1 - tl.abs(width - 1 - column)
    pixel = sample.to(tl.int64) * height * width + row * width + column
    y = tl.load(z_ptr + pixel[:, None] * channels + channel[None, :], mask=inside, other=0.0).to(ACC)

    if NORM:
        own = sample * per_sample * channels + channel
        mean = tl.load(mean_ptr + own, mask=present, other=0.0).to(ACC)
        y = (y - mean[None, :]) * _factor_of(spread_ptr, own, present, eps, GIVEN, ACC)[None, :]
        if SCALED:
            scale = tl.load(scale_ptr + own, mask=present, other=1.0).to(ACC)
            shift = tl.load(shift_ptr + own, mask=present, other=0.0).to(ACC)
            y = y * scale[None, :] + shift[None, :]
    if SLOPED:
        y = tl.where(y > 0, y, y * slope)
    out = (sample.to(tl.int64) * padded_height * padded_width + place)[:, None] * channels + channel[None, :]
    if BESIDE:
        y += tl.load(beside_ptr + out, mask=inside, other=0.0).to(ACC)
    tl.store(y_ptr + out, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _arrived(gradient_ptr, sample, pixel, channel, inside, channels, height, width, left, right, top, bottom,
             PADDED: tl.constexpr, ACC: tl.constexpr):
    """The gradient of pixels of the activation's output: the sum over the places that each was mirrored to."""
    row, column = pixel // width, pixel % width
    padded_width = left + width + right
    base = sample.to(tl.int64) * (top + height + bottom) * padded_width
    place = base + (row + top) * padded_width + column + left
    g = tl.load(gradient_ptr + place[:, None] * channels + channel[None, :], mask=inside, other=0.0).to(ACC)
    if PADDED:
        # In which row (and column) of the padding a pixel is seen again, above or below the image.
        above, below = (row >= 1) & (row <= top), (row < height - 1) & (row >= height - 1 - bottom)
        before, behind = (column >= 1) & (column <= left), (column < width - 1) & (column >= width - 1 - right)
        again = above | below | before | behind
        if tl.max((again & (pixel < height * width)).to(tl.int32), axis=0) > 0:
            for up in tl.static_range(3):
                for side in tl.static_range(3):
                    if up + side > 0:
                        seen_row, seen_column = row + top, column + left
                        seen = again
                        if up == 1:
                            seen_row, seen = top - row, seen & above
                        if up == 2:
                            seen_row, seen = top + 2 * (height - 1) - row, seen & below
                        if side == 1:
                            seen_column, seen = left - column, seen & before
                        if side == 2:
                            seen_column, seen = left + 2 * (width - 1) - column, seen & behind
                        place = base + seen_row * padded_width + seen_column
                        g += tl.load(gradient_ptr + place[:, None] * channels + channel[None, :],
                                     mask=inside & seen[:, None], other=0.0).to(ACC)
    return g


@triton.jit
def sums(gradient_ptr, z_ptr, mean_ptr, spread_ptr, scale_ptr, shift_ptr, out_g_ptr, out_gz_ptr, eps, slope,
         channels, span, splits, height, width, left, right, top, bottom, per_sample,
         GIVEN: tl.constexpr, SCALED: tl.constexpr, SLOPED: tl.constexpr, PADDED: tl.constexpr, ACC: tl.constexpr,
         BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """Σg and Σ g·(z − µ)·r of one span of a sample's pixels, g behind the activation's mask."""
    split, sample = tl.program_id(0), tl.program_id(2)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    present = channel < channels
    own = sample * per_sample * channels + channel
    mean = tl.load(mean_ptr + own, mask=present, other=0.0).to(ACC)
    factor = _factor_of(spread_ptr, own, present, eps, GIVEN, ACC)
    if SCALED:
        scale = tl.load(scale_ptr + own, mask=present, other=1.0).to(ACC)
        shift = tl.load(shift_ptr + own, mask=present, other=0.0).to(ACC)

    last = tl.minimum(split * span + span, height * width)
    sum_g = tl.zeros((BLOCK_C,), dtype=ACC)
    sum_gz = tl.zeros((BLOCK_C,), dtype=ACC)
    for start in range(split * span, last, BLOCK_P):
        pixel = start + tl.arange(0, BLOCK_P)
        inside = (pixel < last)[:, None] & present[None, :]
        place = (sample.to(tl.int64) * height * width + pixel)[:, None] * channels + channel[None, :]
        z = (tl.load(z_ptr + place, mask=inside, other=0.0).to(ACC) - mean[None, :]) * factor[None, :]
        g = _arrived(gradient_ptr, sample, pixel, channel, inside, channels, height, width, left, right, top, bottom,
                     PADDED, ACC)
        if SLOPED:
            y = z
            if SCALED:
                y = z * scale[None, :] + shift[None, :]
            g = tl.where(y > 0, g, g * slope)
        sum_g += tl.sum(g, axis=0)
        sum_gz += tl.sum(tl.where(inside, g * z, 0.0), axis=0)
    out = (sample * splits + split) * channels + channel
    tl.store(out_g_ptr + out, sum_g, mask=present)
    tl.store(out_gz_ptr + out, sum_gz, mask=present)


@triton.jit
def finished_sums(part_g_ptr, part_gz_ptr, out_g_ptr, out_gz_ptr, channels, splits,
                  ACC: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr):
    """Σg and Σ g·(z − µ)·r of a group of all its spans: dβ and dγ."""
    group = tl.program_id(1)
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    present = channel < channels
    sum_g = tl.zeros((BLOCK_C,), dtype=ACC)
    sum_gz = tl.zeros((BLOCK_C,), dtype=ACC)
    for first in range(0, splits, BLOCK_S):
        split = first + tl.arange(0, BLOCK_S)
        inside = (split < splits)[:, None] & present[None, :]
        place = (group * splits + split)[:, None] * channels + channel[None, :]
        sum_g += tl.sum(tl.load(part_g_ptr + place, mask=inside, other=0.0), axis=0)
        sum_gz += tl.sum(tl.load(part_gz_ptr + place, mask=inside, other=0.0), axis=0)
    own = group * channels + channel
    tl.store(out_g_ptr + own, sum_g, mask=present)
    tl.store(out_gz_ptr + own, sum_gz, mask=present)


@triton.jit
def gradient(gradient_ptr, z_ptr, dz_ptr, mean_ptr, spread_ptr, scale_ptr, shift_ptr, sum_g_ptr, sum_gz_ptr, eps, slope,
             channels, pixels, height, width, left, right, top, bottom, per_sample,
             NORM: tl.constexpr, GIVEN: tl.constexpr, SCALED: tl.constexpr, SLOPED: tl.constexpr, PADDED: tl.constexpr,
             ACC: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """dz of one tile of a sample's pixels."""
    sample = tl.program_id(2)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    present = channel < channels
    inside = (pixel < height * width)[:, None] & present[None, :]
    place = (sample.to(tl.int64) * height * width + pixel)[:, None] * channels + channel[None, :]
    g = _arrived(gradient_ptr, sample, pixel, channel, inside, channels, height, width, left, right, top, bottom,
                 PADDED, ACC)
    if NORM or SLOPED:
        z = tl.load(z_ptr + place, mask=inside, other=0.0).to(ACC)
        y = z
    if NORM:
        own = sample * per_sample * channels + channel
        mean = tl.load(mean_ptr + own, mask=present, other=0.0).to(ACC)
        factor = _factor_of(spread_ptr, own, present, eps, GIVEN, ACC)
        z = (z - mean[None, :]) * factor[None, :]
        y = z
        if SCALED:
            scale = tl.load(scale_ptr + own, mask=present, other=1.0).to(ACC)
            shift = tl.load(shift_ptr + own, mask=present, other=0.0).to(ACC)
            y = z * scale[None, :] + shift[None, :]
            factor = factor * scale
    if SLOPED:
        g = tl.where(y > 0, g, g * slope)
    if NORM:
        if not GIVEN:
            sum_g = tl.load(sum_g_ptr + own, mask=present, other=0.0)
            sum_gz = tl.load(sum_gz_ptr + own, mask=present, other=0.0)
            g -= (sum_g[None, :] + z * sum_gz[None, :]) / pixels
        g = g * factor[None, :]
    tl.store(dz_ptr + place, g.to(dz_ptr.dtype.element_ty), mask=inside)
