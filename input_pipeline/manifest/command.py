"""The command line of `python -m input_pipeline.manifest`: check manifests, and make one of transcripts."""

import argparse
import sys
from collections.abc import Sequence

from input_pipeline.manifest import doctor, select
from input_pipeline.storage import console

COMMANDS = {
    "check": (doctor, "read every clip and report problems"),
    "select": (select, "make a training manifest of the transcripts of which a model is sure"),
}


@console.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.manifest", description="Check manifests, and make one of transcripts."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, summary) in COMMANDS.items():
        module.add_arguments(commands.add_parser(name, help=summary, description=module.__doc__))
    args = parser.parse_args(argv)
    try:
        return COMMANDS[args.command][0].run(args)
    except (ValueError, OSError) as error:
        print(f"{parser.prog} {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
