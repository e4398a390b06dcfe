"""`ebbtide` and `kubectl ebbtide`: one command group whose commands load only when they are used.

Errors that Ebbtide raises on purpose explain themselves, so they are printed as they are, without a traceback.
"""

import importlib
import importlib.util
import sys
from pathlib import Path

import click

from ebbtide import __version__
from ebbtide.errors import EbbtideError

# in the order of --help; each is attribute NAME of module ebbtide.cli.NAME
COMMANDS = ("demo", "sandbox", "operator", "cost", "batch", "release", "replay", "bench")


class LazyGroup(click.Group):
    """Finds commands as modules beside this one, and imports only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands that exist."""
        return [name for name in COMMANDS if importlib.util.find_spec(f"ebbtide.cli.{name}") is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None if there is none of that name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command = getattr(importlib.import_module(f"ebbtide.cli.{cmd_name}"), cmd_name)
        return command if isinstance(command, click.Command) else None


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show tracebacks of errors that are otherwise one line.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Scale LLM inference on Kubernetes to meet latency objectives at low cost, with a reason for everything."""
    ctx.obj = {"debug": debug}


def program_name() -> str:
    """What the user typed: `kubectl ebbtide` when kubectl called us as its plugin."""
    return "kubectl ebbtide" if Path(sys.argv[0]).name.startswith("kubectl-") else "ebbtide"


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 an error with its text on stderr, 2 wrong usage; more with each command."""
    debug = "--debug" in sys.argv[1:]
    try:
        cli(prog_name=program_name())
    except EbbtideError as error:
        if debug:
            raise
        for line in str(error).splitlines() or [type(error).__name__]:
            click.echo(f"error: {line}", err=True)
        sys.exit(1)
