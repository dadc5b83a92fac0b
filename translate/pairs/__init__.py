"""Whether the two images of a pair lie on each other, and a copy of a data set in which they do.

Who calls whom:

    reading     which files are pairs, and what is in them, whatever their layout, depth and channels
    measuring   how far pairs are off, and what a training will make of that
    pictures    the worst pairs, to be looked at
    moving      an image brought onto its partner, and the part of it that has a source
    correcting  a corrected copy of a folder, resumable, with a ledger

Colours need not agree (`translate.metrics.alignment`). A training can also learn deformations itself:
`translator.registration` of pix2pix.
"""
