"""Completion of the command line by the shell: ``xchunk completion bash``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from xchunk.cli_options import debug, examples, options
from xchunk.errors import XchunkError

__all__ = ["completion"]

_SHELLS = ("bash", "zsh", "fish")


@click.command(
    epilog=examples(
        'eval "$(xchunk completion bash)"',
        "xchunk completion bash > ~/.local/share/bash-completion/completions/xchunk",
        "xchunk completion zsh > ~/.zfunc/_xchunk",
        "xchunk completion fish > ~/.config/fish/completions/xchunk.fish",
    ),
    short_help="Print what makes a shell complete xchunk.",
)
@click.argument("shell", type=click.Choice(_SHELLS))
@options(debug)
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that makes a shell complete commands, options and files.

    The first example is for the running shell; the others for all that start from now on.
    """
    found = get_completion_class(shell)
    if found is None:
        raise XchunkError(f"click knows no completion for {shell}.")
    root = ctx.find_root().command
    click.echo(found(root, {}, "xchunk", "_XCHUNK_COMPLETE").source())
