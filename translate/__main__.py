"""`python -m translate`, for torchrun and accelerate launch."""

from translate.cli import main

main()
