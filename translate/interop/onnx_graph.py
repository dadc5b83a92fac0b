"""A generator as an ONNX file: one graph for images of every size and any number of them, padding inside.

What ONNX runtimes have no word for is said in other words in a copy of the network: the `if`s of padding become index
arithmetic, which no example freezes; instance norm loses its shortcut for one image; spectral norm becomes the weights
it leads to. Before the file gets its name its graph is run at sizes that the exporter has not seen, and compared.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from translate import files
from translate.errors import MissingExtra, TranslateError, UsageError
from translate.images.pictures import Bits
from translate.images.reading import HALF_RANGE
from translate.networks.layers import Generator, InstanceNorm
from translate.runs.manifest import MANIFEST
from translate.runs.release import Release

Pixels = Literal["signed", "unit", "uint8", "uint16"]
INTEGERS: dict[str, Bits] = {"uint8": 8, "uint16": 16}
OPSET = 20
LEAST_DB, LEAST_DB_HALF = 100.0, 60.0  # of float outputs, beside the network's own
MOST_LEVELS = 1  # that an integer output may be off, where both round a value between two levels
INPUT, OUTPUT = "image", "translated"


@dataclass(frozen=True)
class Check:
    """The graph beside the network, for images (batch, height, width).

    psnr      dB, of a peak of 2 (the range [-1, 1]); of integer pixels, of their own range; None: they are equal
    largest   the largest difference, in the same units
    """

    shape: tuple[int, int, int]
    psnr: float | None
    largest: float


@dataclass(frozen=True)
class OnnxFile:
    """What was written: the file, its size in bytes, and how near its graph is to the network."""

    file: Path
    num_bytes: int
    checks: list[Check]

    @property
    def report(self) -> Path:
        """Where the checks lie, beside the file."""
        return self.file.with_suffix(".json")


def export_onnx(release: Release, file: Path, pixels: Pixels = "signed", half: bool = False) -> OnnxFile:
    """Write a generator as an ONNX file, and beside it a JSON file that says how near the two are.

    pixels  what goes in and comes out. signed: float32 (N, C, H, W) in [-1, 1]; unit: the same in [0, 1], which is what
            chaiNNer takes; uint8 and uint16: (N, H, W, C), as image files hold them
    half    keep weights and compute in float16, norms in float32; pixels stay what they are

    Raises `MissingExtra`, `UsageError` for a file that is there or pixels that the model does not take, and
    `TranslateError` where the graph is not as near as it must be: then nothing is written.
    """
    if file.exists():
        raise UsageError("exists already", file, "name another file")
    if file.suffix != ".onnx":
        raise UsageError("is no name of an ONNX file", file, "let it end in .onnx")
    report = file.with_suffix(".json")
    if (file.parent / MANIFEST).exists():
        raise UsageError("lies in a release, which takes no other files", file, "name a file in another folder")
    if report.exists():
        raise UsageError("exists already, and the comparison is to be written there", report, "name another file")
    if release.labels is not None and pixels in INTEGERS:
        raise UsageError("its input are label maps, which go in as one-hot images", str(pixels), "use --pixels signed")
    try:
        import onnx
        import onnxruntime  # noqa: F401 (the check would find out only after minutes)
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtra(error.name or "onnx", "export", "writing ONNX") from None

    network = cast(Generator, release.generator)
    portable = Portable(network, pixels, half)
    channels = release.labels.channels if release.labels is not None else release.image_in.channels
    program = _graph(portable, network, channels, pixels)
    _say_what_it_is(program, release, network, pixels, half)
    onnx.checker.check_model(program, full_check=True)
    content = program.SerializeToString()

    # Nothing is written that was not seen to be right
    session = _session(content)
    checks = [_compared(session, network, pixels, channels, shape) for shape in unseen_shapes(network)]
    if wrong := [check for check in checks if not _is_near(check, pixels, half)]:
        raise TranslateError(f"the exported graph is not the network: {_in_words(wrong)}; nothing was written", file,
                             "this is a fault of the exporter or the runtime: please report it with the recipe")
    made = OnnxFile(file, len(content), checks)
    with files.as_disk_errors(file):
        files.write_json(made.report, {
            "opset": OPSET, "pixels": pixels, "half": half, "checks": [asdict(check) for check in checks],
            "onnx": onnx.__version__, "torch": torch.__version__})
        files.write_bytes(file, content)
    return made


class Portable(nn.Module):
    """A generator from pixels to pixels, in words that a graph for every size can be made of."""

    def __init__(self, network: Generator, pixels: Pixels, half: bool):
        super().__init__()
        self.network, self.pixels, self.half_precision = portable_copy(network, half), pixels, half
        self.multiple, self.smallest = network.multiple, network.smallest

    def forward(self, image: Tensor) -> Tensor:
        """Return the translated image, as its `pixels` say."""
        # To (N, C, H, W) in [-1, 1]
        if self.pixels in INTEGERS:
            half_range = HALF_RANGE[INTEGERS[self.pixels]]
            image = image.permute(0, 3, 1, 2).to(torch.float32) / half_range - 1
        elif self.pixels == "unit":
            image = image * 2 - 1

        # Padded to fit, translated, and cropped
        height, width = image.shape[-2:]
        x = fitted(fitted(image, 3, self.multiple, self.smallest), 2, self.multiple, self.smallest)
        y = self.network.translate(x.half() if self.half_precision else x).to(torch.float32)
        y = y[..., :height, :width]

        # And back
        if self.pixels in INTEGERS:
            y = ((y.clamp(-1, 1) + 1) * half_range).round().permute(0, 2, 3, 1)
            return y.to(torch.uint8 if self.pixels == "uint8" else torch.uint16)
        return (y + 1) / 2 if self.pixels == "unit" else y


def fitted(image: Tensor, dim: int, multiple: int, smallest: int) -> Tensor:
    """Pad one side of an image at its end as `pad_to_fit` does, without an `if` that an example would decide.

    Pixel i of the padded side is pixel i; beyond the last of n it is 2(n − 1) − i where fewer are missing than there
    are, and n − 1 where not.
    """
    side = image.shape[dim]
    wanted = torch.sym_max((side + multiple - 1) // multiple * multiple, smallest)
    index = torch.arange(wanted, device=image.device)
    last = torch.full_like(index, side - 1)
    can_mirror: Any = (torch.ones_like(index) * (wanted - side)) < side
    beyond = torch.where(can_mirror, 2 * last - index, last)
    return image.index_select(dim, torch.where(index < side, index, beyond).clamp(min=0))


class NormInFloat32(nn.Module):
    """A norm of a network in half precision: its sums would overflow, and its differences vanish."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm.float()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.float()).to(x.dtype)


def portable_copy(network: Generator, half: bool) -> Generator:
    """Return a copy of a network, frozen and in eval mode, whose parts all have a word in ONNX."""
    made = copy.deepcopy(network).eval().requires_grad_(False)
    made = made.half() if half else made.float()
    for module in list(made.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, InstanceNorm):  # its shortcut for one image would make the example's batch a constant
                child = nn.InstanceNorm2d(child.num_features, eps=child.eps).eval()
            elif parametrize.is_parametrized(child):
                child = folded(child)
            if half and isinstance(child, nn.InstanceNorm2d | nn.BatchNorm2d):
                child = NormInFloat32(child)
            setattr(module, name, child)
    return made


def folded(conv: nn.Module) -> nn.Module:
    """Return a plain convolution with the weights that a parametrisation (spectral norm) leads to.

    torch's own way takes the property off the class, which the copy shares with the original.
    """
    plain_class: Any = type(conv).__bases__[0]
    plain = plain_class.__new__(plain_class)
    plain.__dict__ = dict(conv.__dict__)
    weight = nn.Parameter(cast(Tensor, conv.weight).detach().clone(), requires_grad=False)
    plain._modules, plain._parameters = {}, {**conv._parameters, "weight": weight}
    return plain


def _graph(portable: Portable, network: Generator, channels: int, pixels: Pixels) -> Any:
    """Return the graph, in which the number of images and both sides are free. Raises `TranslateError`."""
    height, width = 2 * network.multiple + 3, 3 * network.multiple + 1
    height, width = max(height, network.smallest + 1), max(width, network.smallest + 2)
    free = torch.export.Dim
    example, dims = example_of(pixels, channels, (2, height, width)), {0: free("batch")}
    dims |= ({1: free("height"), 2: free("width")} if pixels in INTEGERS else {2: free("height"), 3: free("width")})
    program = torch.onnx.export(portable.eval(), (example,), dynamo=True, input_names=[INPUT], output_names=[OUTPUT],
                                dynamic_shapes=(dims,), opset_version=OPSET, verbose=False)
    assert program is not None
    model = program.model_proto  # a new one at each call

    # A side that became a constant is the silent fault; the output's sides are the input's, and are called so
    (given,), (made,) = model.graph.input, model.graph.output
    for dim, out in zip(given.type.tensor_type.shape.dim, made.type.tensor_type.shape.dim, strict=True):
        if not dim.dim_param and dim.dim_value != channels:
            raise TranslateError(f"the exporter has made a side of the example ({dim.dim_value}) a constant")
        if dim.dim_param:
            out.dim_param = dim.dim_param
    return model


def example_of(pixels: Pixels, channels: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """Return images that are neither constant nor alike, (batch, height, width), as `pixels` say."""
    chance = torch.Generator().manual_seed(seed)
    batch, height, width = shape
    image = torch.rand(batch, channels, height, width, generator=chance)
    if pixels in INTEGERS:
        dtype = torch.uint8 if pixels == "uint8" else torch.uint16
        return (image * 2 * HALF_RANGE[INTEGERS[pixels]]).round().permute(0, 2, 3, 1).contiguous().to(dtype)
    return image if pixels == "unit" else image * 2 - 1


def unseen_shapes(network: Generator) -> list[tuple[int, int, int]]:
    """Return (batch, height, width) to compare at: other numbers of images, odd sides, one that is too small to mirror,
    and one below the smallest that the network takes."""
    side, multiple = max(network.smallest, 2 * network.multiple), network.multiple
    return [(1, side, side + multiple), (1, side + 1, side + multiple - 1), (2, side + multiple + 1, side),
            (1, max(network.smallest // 2 - 1, 3), side + 3), (3, max(network.smallest - 1, 5), side)]


def _session(content: bytes) -> Any:
    """Return ONNX Runtime with a graph in it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _compared(session: Any, network: Generator, pixels: Pixels, channels: int, shape: tuple[int, int, int]) -> Check:
    """Return how near the graph is to the network itself, in float32, for images of a shape."""
    # What the graph makes
    image = example_of(pixels, channels, shape, seed=1)
    (made,) = session.run([OUTPUT], {INPUT: image.numpy()})

    # What the network makes of the same pixels, by its own way of padding
    with torch.inference_mode():
        signed = image.to(torch.float32)
        if pixels in INTEGERS:
            signed = signed.permute(0, 3, 1, 2) / HALF_RANGE[INTEGERS[pixels]] - 1
        elif pixels == "unit":
            signed = signed * 2 - 1
        expected = network(signed).double()  # a release's generator is in float32 and in eval mode
    if pixels in INTEGERS:
        expected = ((expected.clamp(-1, 1) + 1) * HALF_RANGE[INTEGERS[pixels]]).round().permute(0, 2, 3, 1)
    elif pixels == "unit":
        expected = (expected + 1) / 2
    difference = np.abs(made.astype(np.float64) - expected.numpy())
    peak = {"signed": 2.0, "unit": 1.0}.get(pixels) or 2 * HALF_RANGE[INTEGERS[pixels]]
    error = float((difference**2).mean())
    return Check(shape, None if error == 0 else float(10 * np.log10(peak**2 / error)), float(difference.max()))


def _is_near(check: Check, pixels: Pixels, half: bool) -> bool:
    if half:
        return check.psnr is None or check.psnr >= LEAST_DB_HALF
    if pixels in INTEGERS:
        return check.largest <= MOST_LEVELS
    return check.psnr is None or check.psnr >= LEAST_DB


def _in_words(checks: Sequence[Check]) -> str:
    return ", ".join(f"{check.psnr:.0f} dB for {batch} × {height} × {width}" for check in checks
                     if check.psnr is not None for batch, height, width in [check.shape])


def _say_what_it_is(model: Any, release: Release, network: Generator, pixels: Pixels, half: bool) -> None:
    """Write into the graph what a program needs to know that runs it."""
    model.producer_name, model.producer_version = "diptych", version("diptych")
    model.doc_string = "Give whole images to it: cut into tiles they come out with seams, as norms see the whole image."
    about = {"recipe": release.name, "fingerprint": release.fingerprint, "direction": release.direction,
             "pixels": pixels, "precision": "float16, norms float32" if half else "float32",
             "multiple": str(network.multiple), "smallest": str(network.smallest), "tiling": "do not tile"}
    if release.labels is not None:
        about["input"] = f"label maps, one-hot: {release.labels.channels} channels"
    for name, value in about.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, value
