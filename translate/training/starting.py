"""The weights that a training begins with: a run's, a release's, or a checkpoint's of another project.

What fits goes over, tensor by tensor, by name and shape; what does not is named. The networks may grow from there: they
take over the weights in the shape that these are of, before the first stage adds its levels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from translate import files
from translate.errors import UsageError
from translate.interop.importing import read_generator
from translate.networks.growing import Grown, extend
from translate.recipe import Recipe, differences
from translate.runs.folder import load_saved
from translate.runs.hub import here, is_address
from translate.runs.manifest import read_tensors
from translate.runs.progress import Progress
from translate.runs.release import find_weights, load_generator, progress_of, stage_of
from translate.translators import Translator

State = dict[str, Tensor]
WITHOUT_MEANING = ("init", "dropout")  # options of a generator that say nothing about weights which are there


@dataclass(frozen=True)
class Source:
    """What a training begins with: states of networks by their names, and what their generators are."""

    what: str  # where they are from, in words, with a checksum
    states: dict[str, State]
    generator: dict[str, Any]  # the generators' part of a recipe
    levels: int
    notes: list[str] = field(default_factory=list)


def read_source(recipe: Recipe) -> Source | None:
    """Read what a recipe's `start` names; None where it names nothing.

    Raises `UsageError` and `CheckpointError` for what holds no weights to begin with.
    """
    if recipe.start is None:
        return None
    path = recipe.start.expanduser()
    return _of_theirs(path) if path.is_file() else _of_ours(path)


def _of_theirs(path: Path) -> Source:
    read = read_generator(path)
    return Source(f"{path}, {read.found.source} (SHA-256 {read.sha256})",
                  {"generator_ab": dict(read.network.state_dict())}, read.found.config.model_dump(mode="json"),
                  read.found.levels, [*read.found.notes, "a discriminator is taken over from a release: translate "
                                      "import FILE --discriminator FILE"])


def _of_ours(path: Path) -> Source:
    # A run's newest checkpoint or its best one, or a release; of a generator its average, as one translates with.
    named, path = path, here(path)
    found = find_weights(path)
    recipe, weights = load_saved(found.folder), found.weights
    stage, share = stage_of(recipe, progress_of(weights, recipe))
    if share < 1:
        raise UsageError(f"its newest level has faded in to α = {share:.2f} only", path, "train it until it is in, and "
                         "start from that")
    states, notes = {}, [f"refused {reason}" for reason in found.refused]
    for file in sorted(weights.glob("*.safetensors")):
        if file.stem.startswith(("optimizer_", "rank", "ema_")):
            continue
        average = file.with_name(f"ema_{file.name}")
        states[file.stem] = read_tensors(average if average.is_file() else file)

    # In the stage that faded a level in, what it replaced is still there.
    if stage.fade:
        for name in list(states):
            del states[name]
            if name.startswith("generator_"):
                generator = load_generator(path, cast(Any, name.removeprefix("generator_"))).generator
                cast(Grown, generator).drop_faded()
                states[name] = dict(generator.state_dict())
            else:
                notes.append(f"{name} is left there: it holds still what its newest level has replaced")
    checksums = files.sha256(weights / "generator_ab.safetensors") if (
        weights / "generator_ab.safetensors").is_file() else files.sha256(weights / "generator_ba.safetensors")
    return Source(f"{named if is_address(named) else weights} (SHA-256 of its generator {checksums})", states,
                  recipe.translator.generator.model_dump(mode="json"), stage.levels, notes)


def take_over(source: Source | None, translator: Translator, recipe: Recipe, progress: Progress) -> list[str]:
    """Give fresh networks the weights of a source; return what went over and what did not, a line each.

    Without a source they stay fresh, and nothing is said. Raises `UsageError` where the networks have fewer levels than
    the source, or nothing of a generator fits.
    """
    if source is None:
        return []
    progress.began = source.what
    if source.levels > recipe.stages[0].levels:
        raise UsageError(f"has networks with {source.levels} levels, and the first stage has {recipe.stages[0].levels}",
                         str(recipe.start), f"set stages.0.levels to {source.levels}, and those of later stages to no "
                         "less")

    if recipe.stages[0].hold_statistics and source.levels < recipe.stages[0].levels:
        raise UsageError(f"has networks with {source.levels} levels, and no statistics of those that the first stage "
                         "adds have been counted", str(recipe.start), "leave out stages.0.hold_statistics")

    # What has no shape: the same weights make another image with another norm or filter.
    generator = recipe.translator.generator.model_dump(mode="json")
    other = [line for line in differences(source.generator, generator) if line.split(":")[0] not in WITHOUT_MEANING]
    notes = [f"begins with the weights of {source.what}", *source.notes]
    if other:
        notes.append(f"its generator differs there from the recipe's: {', '.join(other)}")

    # Network by network, each in the shape of the source; an average begins where its network does.
    fitting = 0
    for name, network in translator.modules.items():
        state = source.states.get(name.removeprefix("ema_"))
        if state is None:
            notes.append(f"{name}: fresh, there is none")
            continue
        config = translator.growing.get(name.removeprefix("ema_"))
        if config is not None:
            extend(config, network, source.levels, fading=False)
        taken, lines = _fit(network, state)
        fitting += taken if name.startswith("generator_") else 0
        if not name.startswith("ema_"):
            notes += [f"{name}: {line}" for line in lines]
    if not fitting:
        raise UsageError("nothing of it fits the recipe's generator: " + (", ".join(other) or "other names and shapes"),
                         str(recipe.start), "give the recipe the generator it has (its recipe.yaml says which)")
    unused = [name for name in source.states if name not in translator.modules]
    return [*notes, *(f"{name}: left there, this translator has none" for name in unused)]


def _fit(network: nn.Module, state: State) -> tuple[int, list[str]]:
    """Load what fits into a network; return how many tensors that are, and what fits and what does not in words."""
    own = network.state_dict()
    fitting = {name: tensor for name, tensor in state.items() if name in own and own[name].shape == tensor.shape}
    network.load_state_dict(own | fitting)
    lines = [f"{len(fitting)} of {len(own)} tensors taken over"]
    reshaped = [f"{name} ({_sides(tensor)}, there {_sides(state[name])})" for name, tensor in own.items()
                if name in state and name not in fitting]
    if reshaped:
        lines.append(f"fresh, as it has another shape: {', '.join(reshaped)}")
    if missing := _parts(name for name in own if name not in state):
        lines.append(f"fresh, as there is none: {missing}")
    if left := _parts(name for name in state if name not in own):
        lines.append(f"left there, as it has no place: {left}")
    return len(fitting), lines


def _sides(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape))


def _parts(names: Iterable[str]) -> str:
    """Return the parts of a network that tensors belong to: blocks and layers, each once."""
    return ", ".join(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))
