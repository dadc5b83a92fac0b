"""How good images are: those that a run makes of its test set, or those that any tool has left in a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from translate.cluster.ray_engine import RayEngine
from translate.data.pairing import names_of, shared_names
from translate.data.stream import TRUTH_ADVICE
from translate.errors import DataError, visible
from translate.evaluation.folder_images import FolderImages, Images, doubts, list_folder, unpaired_in_words
from translate.evaluation.heldout import HeldOut, translate_whole
from translate.evaluation.observing import Item, Observers, Observing, look_at
from translate.evaluation.results import OnProgress, Results, run_of
from translate.images.tensors import hide_unknown, to_array, to_tensor
from translate.images.values import Range
from translate.metrics import observations
from translate.metrics.baselines import ColourTransfer
from translate.metrics.features import FeatureNetwork
from translate.metrics.observations import MEASURES, summarise
from translate.metrics.sliced_wasserstein import PyramidPatches
from translate.places import RECIPE_FILE, data_root
from translate.precision import choose_precision, is_out_of_memory
from translate.recipe import Recipe
from translate.runs.folder import load_saved
from translate.runs.recipe_paths import naming_moved_places, relative_places
from translate.runs.release import RELEASE, Release, load_generator
from translate.translators import Direction


@dataclass
class Fakes:
    """Translations of held-out images, in the numbers that a file can hold, by the device of whichever process asks."""

    release: Release
    recipe: Recipe
    of: HeldOut

    @cached_property
    def device(self) -> torch.device:
        """Where the generator is from now on."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.release.generator.to(device)
        return device

    def __call__(self, number: int) -> Tensor:
        """Return a translation (C, H, W) in [-1, 1]."""
        given = self.recipe.translator.inputs(self.of.source(number)[None], [self.of.key(number)])[0]
        image_out = self.release.image_out
        precision = choose_precision("auto" if image_out.bits == 8 else "fp32", self.device)
        made = translate_whole(self.release.generator, given, self.device, precision).cpu()
        return hide_unknown(to_tensor(to_array(made, image_out), image_out), made)


def evaluate_run(path: Path, *, direction: Direction = "ab", most: int | None = None, engine: RayEngine | None = None,
                 on_progress: Callable[[int, int, str], object] = lambda done, total, what: None) -> Results:
    """Translate the test images of a run's (or release's) recipe and score what comes out, as `convert` would write it.

    They are shown as the last stage of the training showed images, but whole; and, where that is another scale than
    their own, by more than a third, in their own size as well.

    path         a run folder, `<run>/best`, or a release folder
    most         at most so many test images, evenly spaced; None: all
    engine       a connected cluster that translates and looks at the images, in place of this process
    on_progress  called with the number of images looked at, of all there are, and in which size

    Raises `UsageError`, `CheckpointError`, `ImageError`.
    """
    # The generator, and the test images of the recipe beside it
    release = load_generator(path, direction)
    home = run_of(path)
    home = home.parent if (home / RELEASE).is_file() and (home.parent / RECIPE_FILE).is_file() else home
    recipe = load_saved(home)  # of a release that lies in its run, the run's: it says where images are
    with naming_moved_places(recipe, home):
        own = HeldOut(recipe, data_root().absolute(), direction, most)  # a cluster's workers stand in other folders
    held_out, rescales = own.shown(release.fitting), release.fitting.rescales(own.shapes)

    # Neither label maps nor what images are conditioned on are images: there are no baselines of them
    compares = release.labels is None and recipe.translator.needs_sources
    score, shown = partial(_score, release, recipe, engine), f"at {held_out.side} px" if rescales else ""
    results = score(held_out, compares, lambda done, total: on_progress(done, total, shown))
    if rescales:
        _add_own_size(results, own.side, partial(score, own, False, lambda done, total: on_progress(
            done, total, f"in their own size, {own.side} px")))

    # What else is to be said
    if not held_out.paired and recipe.translator.needs_sources:
        results.missing.append(f"scores against a truth: which image is whose is not known; {TRUTH_ADVICE}")
    if relative := relative_places(recipe):
        results.notes.append(f"the images may be others than in the training: the recipe names a relative place, "
                             f"{relative}")
    results.about |= {"what": str(path), "against": "the test images of its recipe", "direction": direction,
                      "weights": release.weights.name if release.weights else None, "side": held_out.side,
                      "own_side": own.side}
    return results


def _score(release: Release, recipe: Recipe, engine: RayEngine | None, of: HeldOut, compares: bool,
           on_progress: OnProgress) -> Results:
    """Score translations of held-out images, and, if one `compares`, baselines made of their sources."""
    sources = Images(len(of.sources), of.source) if compares else None
    return compare(Images(len(of.sources), Fakes(release, recipe, of)), Images(len(of.reals), of.real), sources,
                   paired=of.paired, sources_paired=True, on_progress=on_progress,
                   beside=[] if recipe.translator.needs_sources else [PyramidPatches()], engine=engine)


def _add_own_size(results: Results, side: int, score: Callable[[], Results]) -> None:
    """Add what `score` returns for the same images in their own size, `side` px, or say that there is no memory."""
    try:
        in_own_size = score()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        results.missing.append(f"scores of the test images in their own size, {side} px: out of memory")
        return
    results.own_size = in_own_size.scores

    # A score that there is in their own size alone has no row in the table, and is not missing
    results.missing = [line for line in results.missing if line in in_own_size.missing]
    results.notes += [f"{MEASURES[name].title} in their own size alone, {side} px: {found.value:.4g}"
                      for name, found in results.own_size.items() if name not in results.scores]


def evaluate_folder(folder: Path, against: Path, source: Path | None = None, *, truth: bool | None = None,
                    most: int | None = None, low_high: Range | None = None, engine: RayEngine | None = None,
                    on_progress: OnProgress = lambda done, total: None) -> Results:
    """Score the images below `folder` against the real ones below `against`: by pairs too where most have a truth.

    source       holds what the images were made from, for the baselines; None: no baselines
    truth        None: a real image of the very same name is an image's truth, and where at least half of the images
                 have one, those are scored and the others named. True: also one whose name differs in what all names
                 of its folder begin or end with. False: names say nothing, and sets are compared
    most         at most so many images of each folder, evenly spaced; None: all
    low_high     the values of all files that stand for black and white; None: all of their type, and values that fill
                 a small part of it are said
    engine       a connected cluster that looks at the images, in place of this process
    on_progress  called with the number of images looked at, and of all there are

    Raises `DataError` for folders without images and pairs of different sizes, `ImageError`.
    """
    images, reals = list_folder(folder), list_folder(against)
    sources = [] if source is None else list_folder(source)

    # Images with a truth are scored, and what pairs with nothing is named. Without truths, sets are compared.
    pairs, missing = _truths(folder, images, against, reals, truth)
    if pairs:
        images, reals = [image for image, _ in pairs], [real for _, real in pairs]

    # Baselines are compared as sets, too, unless every image has its source. Others than these are not looked at: of
    # one that cannot be read nothing was made.
    sources_paired, why_sets = False, ""
    if source is not None:
        try:
            origins, lonely, _ = shared_names(folder, images, source, sources, alike=True)
        except DataError as error:
            why_sets = f"sources that pair by name: {error}"
        else:
            sources_paired = bool(pairs) and not lonely
            sources = sources if lonely else [origin for _, origin in origins]
            if lonely:
                why_sets = f"a source of each image's name; without one in {visible(source)}: {names_of(lonely)}"
    missing += [f"scores of baselines against a truth need {why_sets}"] if pairs and why_sets else []

    if engine is not None:  # whose workers stand in other folders
        images, reals, sources = ([path.absolute() for path in side] for side in (images, reals, sources))

    # What their values stand for is known when all have been read
    compared = {folder: FolderImages(images, most, low_high), against: FolderImages(reals, most, low_high)}
    results = compare(compared[folder].images, compared[against].images,
                      FolderImages(sources, most, low_high).images if sources else None,
                      paired=bool(pairs), sources_paired=sources_paired, on_progress=on_progress, engine=engine)
    results.about |= {"what": str(folder), "against": str(against), "direction": None, "weights": None}
    results.about |= {"range": list(low_high)} if low_high else {}
    results.missing += missing
    results.notes += doubts(compared)
    return results


def _truths(folder: Path, images: list[Path], against: Path, reals: list[Path],
            truth: bool | None) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Return the images that have a truth, each with it, and lines on the others; see `evaluate_folder`."""
    if truth is False:
        return [], []
    try:
        pairs, only_images, only_reals = shared_names(folder, images, against, reals, alike=bool(truth))
        if truth and not pairs:
            raise DataError(f"no name is like one of {against}", folder)
    except DataError as error:
        if truth:
            raise
        return [], [f"scores against a truth need images that pair by name: {error}"]
    if truth is None and len(pairs) < len(only_images):
        alike = shared_names(folder, images, against, reals, alike=True)[0][:1]
        hint = [f"; --truth takes {visible(a.name)} and {visible(b.name)} for a pair" for a, b in alike]
        return [], [f"scores against a truth need images that pair by name: {len(only_images)} of {len(images)} have "
                    f"none in {visible(against)}: {names_of(only_images)}{''.join(hint)}"]
    return pairs, unpaired_in_words(folder, only_images, against, only_reals)


def compare(images: Images, reals: Images, sources: Images | None, *, paired: bool, sources_paired: bool,
            on_progress: OnProgress = lambda done, total: None, beside: Sequence[FeatureNetwork] = (),
            engine: RayEngine | None = None) -> Results:
    """Score `images` and the baselines made of `sources` against `reals`.

    paired          real i is the truth of image i
    sources_paired  image i was made from source i
    on_progress     called with the number of images looked at, and of all there are
    beside          what else sets are compared by, whatever is on this machine
    engine          a connected cluster that looks at the images, in place of this process

    Raises `DataError` naming the image that cannot be compared.
    """
    # What sets and pairs are compared by, as far as it is on this machine
    task = Observing(images, reals, sources, paired, sources_paired, tuple(beside))
    observers = task.observers if engine is None else Observers.here(paired=paired, beside=beside)
    task.expected = observers.titles
    missing = list(observers.missing)

    # Real images with the others, and then the sources: the colour transfer needs the colours of all real images
    num_sources = sources.num if sources is not None else 0
    before, total = reals.num + images.num, reals.num + images.num + num_sources
    items: list[Item] = [*(("reals", number) for number in range(reals.num)),
                         *(("images", number) for number in range(images.num))]
    seen = look_at(task, items, engine, lambda done: on_progress(done, total))
    moments, kept_reals = zip(*(seen["reals", number] for number in range(reals.num)), strict=True)
    kept = {"reals": list(kept_reals), "images": [seen["images", number] for number in range(images.num)]}

    # The baselines, as far as a source has the channels of the real images and the size of its truth
    of_sources: list[Item] = [("sources", number) for number in range(num_sources)]
    task.transfer = ColourTransfer(moments)
    by_source = look_at(task, of_sources, engine, lambda done: on_progress(before + done, total)) if of_sources else {}
    made = [each for item in of_sources if (each := by_source[item]) is not None]
    kept["identity"], kept["colour_transfer"] = ([each[column] for each in made] for column in (0, 1))

    # A baseline counts where it could be made of every source
    scores = summarise(kept["images"], kept["reals"], paired=paired)
    missing += observations.why_not(scores, kept["images"], kept["reals"], observers.networks, paired=paired)
    return Results(
        {"num_images": images.num, "num_reals": reals.num, "num_sources": num_sources,
         "paired": paired, "features": [network.title for network in observers.networks]},
        scores, observations.floor(kept["reals"]),
        {name: summarise(kept[name], kept["reals"], paired=paired and sources_paired)
         for name in ("identity", "colour_transfer") if num_sources and len(kept[name]) == num_sources}, missing)
