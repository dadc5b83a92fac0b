"""What the losses of a training are, for people: what is recorded under which name, in a few words each."""

from __future__ import annotations

from collections.abc import Collection

# Of translations A → B and back; of the side that a discriminator judges, or of features (h) that it judges
SIDES = ("_ab", "_ba", "_a", "_b", "_h")
LOSSES = {
    "adversarial": "how far made images are from being taken for real",
    "discriminator": "how badly real images and made ones are told apart",
    "cycle": "how far images are from themselves after the way there and back",
    "identity": "how much a generator changes images that are of its target side already",
    "l1": "how far translations are from the truth, as the mean difference of pixels",
    "ssim": "how unlike translations and the truth are in shapes and contrast, as 1 − SSIM at several scales",
    "perceptual": "how far images are from what they should be, in the features of a pretrained network",
    "features": "how far translations are from the truth, in the features of the discriminator",
    "nce": "how hard it is to tell which patch of the input a patch of the translation was made from",
    "semantic": "how much of what a task network sees in an input is another thing in the translation",
    "smoothness": "how rough the learnt deformation of pairs is",
    "protected": "how much regions change that are to stay as they are",
    "divergence": "how far the text's conditions are from a normal distribution",
    "information": "how badly codes that images were drawn from are recognised in them",
    "classes": "how badly the encoder knows the classes of real images",
    "conditional": "how far the encoder finds something else in what was drawn than what it was drawn of",
    "entropy": "how badly latents are found again in what was drawn from them: less is more varied",
    "latents": "the same, as a discriminator learns it",
    "mismatched": "how readily real images are taken with a condition of other ones",
    "ambiguity": "how surely made images are of one style",
    "styles": "how badly the styles of real images are recognised",
}


def without_side(name: str) -> str:
    """Return the name of a loss without its side: `cycle` for `cycle_ab` and for `cycle_ba`."""
    return next((name.removesuffix(side) for side in SIDES if name.endswith(side)), name)


def losses_in_words(names: Collection[str]) -> list[str]:
    """Return what the losses of these names are, each once whatever its side; empty where none is known.

    Where some are of features, what that ending means comes last.
    """
    known = dict.fromkeys(name for each in names if (name := without_side(each)) in LOSSES)
    endings = ["…_h: of features, …_b: of images"] if any(name.endswith("_h") for name in names) else []
    return [f"{name}: {LOSSES[name]}" for name in known] + endings * bool(known)
