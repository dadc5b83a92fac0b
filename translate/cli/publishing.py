"""publish: a release becomes a repository on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from translate.cli.console import say
from translate.cli.models import quieten_the_hub
from translate.errors import visible


def publish(
    model: Annotated[Path, typer.Argument(metavar="RELEASE", help="A release, or the run that it lies in, which also "
                                          "knows scores and pictures.")],
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The repository; it is made where there is "
                                              "none.")],
    private: Annotated[bool, typer.Option("--private", help="A repository that is made here shows itself to its owner "
                                          "alone.")] = False,
    licence: Annotated[str | None, typer.Option(help="Of the weights, as the Hub names licences: apache-2.0, "
                                                "cc-by-4.0 …", show_default="what the card says")] = None,
    with_example: Annotated[bool, typer.Option("--example/--no-example", help="Show a held-out image of the run on the "
                                               "card: input, output and truth.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent, and the card; send nothing.")
                       ] = False,
) -> None:
    """Publish a release on the Hugging Face Hub, with a card that says what it is; HF_TOKEN holds your token."""
    from translate.publish.publishing import publish as send
    from translate.runs.hub import CARD
    from translate.sizes import format_bytes

    quieten_the_hub()
    made = send(model, repository, private=private, licence=licence, with_example=with_example, dry_run=dry_run)
    for name, size in [*((file.name, file.stat().st_size) for file in made.files),
                       *((name, len(content)) for name, content in made.texts.items())]:
        say(f"{'would send' if dry_run else 'sent'}: {visible(name)}, {format_bytes(size)}")
    if dry_run:
        say("")
        say(made.texts[CARD].decode())
    for note in made.notes:
        say(f"note: {visible(note)}")
    if made.address:
        say(f"published: {visible(made.address)}")
        say(f"convert with: translate convert IN OUT --model hf:{repository}")
