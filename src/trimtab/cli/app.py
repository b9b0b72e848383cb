"""The `trimtab` command: finds the verb, and turns every error into one line and an exit code."""

import errno
import importlib
import os
import select
import sys
from typing import NoReturn

import click

from trimtab.errors import TrimtabError

# The short helps stand here so that listing the verbs imports none of them.
VERBS = {
    "init": "Write a commented trimtab.yaml.",
    "check": "Say what is wrong with a project file, one line a fault.",
    "run": "Run the whole loop: data to promotion.",
    "data": "Build the dataset and list what was dropped, and why.",
    "plan": "Show which methods fit this machine, with memory, time and price.",
    "train": "Run the loop as far as training.",
    "sweep": "Try settings of training side by side, under one budget.",
    "publish": "Tell the trackers what could not be told while it happened.",
    "evaluate": "Run the loop as far as the gate, and show the reports.",
    "status": "Show what is live, and why.",
    "models": "List model versions.",
    "export": "Write a version's adapter for PEFT, vLLM or llama.cpp.",
    "trace": "Follow a hash, a run or an answer through the loop, both ways.",
    "rollback": "Put the previous version back.",
    "keys": "Create, list, rotate and revoke API keys; set budgets.",
    "prices": "List and set what tokens cost.",
    "dead-letters": "List, show, replay and delete work that failed for good.",
    "purge": "Delete content whose time is over, or all of it.",
    "serve": "Serve the deployments of a home over HTTP.",
}

STDOUT = 1
BUG = "this is a bug; --verbose shows where it is"
# What a machine refuses is no bug of ours, wherever it comes up.
OUTSIDE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space on that disk"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "check who may write there"),
}


class Verbs(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module = importlib.import_module(f"trimtab.cli.{name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        # Click knows names that are near from its own table, which stands empty here.
        if args[0] not in VERBS and not args[0].startswith("-"):
            raise click.exceptions.NoSuchCommand(args[0], possibilities=VERBS, ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="trimtab")
def trimtab() -> None:
    """Trimtab closes the loop of fine-tuning language models.

    \b
    trimtab init && trimtab run     from a file of examples to a model that is live
    trimtab serve                   answer over HTTP
    """


def main() -> NoReturn:
    """Run the command line and leave with its exit code.

    0 done, 1 our fault, 2 the user's, 3 finished but not promoted, 130 interrupted.
    """
    try:
        code = trimtab.main(prog_name="trimtab", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = 2
    except click.UsageError as error:
        verb = error.ctx.command_path if error.ctx else "trimtab"
        code = _say(error.format_message().rstrip("."), f"see: {verb} --help", 2)
    except (KeyboardInterrupt, click.Abort):
        code = _say("interrupted", "run the same command again: it goes on from here", 130)
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, SystemExit) and not _reader_left(error):
            raise
        # The reader of our output left (`trimtab models | head`); nobody is there to be told. Click
        # and rich see it first and end the process as failed; verbs end by their context.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except TrimtabError as error:
        _show_traceback(error)
        code = _say(error.message, error.hint, error.exit_code)
    except OSError as error:
        _show_traceback(error)
        hint = OUTSIDE.get(error.errno or 0)
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        code = _say(what, hint or BUG, 2 if hint else 1)
    except ModuleNotFoundError as error:
        _show_traceback(error)
        ours = (error.name or "trimtab").startswith("trimtab")
        extra = BUG if ours else "pip install 'trimtab[train,serve]'"
        code = _say(f"{error.name} is not installed", extra, 1 if ours else 2)
    except Exception as error:  # the last line of defence: a fault of ours, still one line
        _show_traceback(error)
        code = _say(f"{type(error).__name__}: {error}", BUG, 1)
    sys.exit(code if isinstance(code, int) else 0)


def _reader_left(end: SystemExit) -> bool:
    """Whether the process ends because nobody reads our output any more, and not by the project's
    own code. Rich says so by the context, having put our output aside; click does not.
    """
    poll = select.poll()
    poll.register(STDOUT, 0)
    broken = any(event & select.POLLERR for _, event in poll.poll(0))
    return broken or isinstance(end.__context__, BrokenPipeError)


def _say(message: str, hint: str, code: int) -> int:
    line = " ".join(message.split())
    click.echo(f"trimtab: {line}" + (f" - {hint}" if hint else ""), err=True)
    return code


def _show_traceback(error: BaseException) -> None:
    if "--verbose" in sys.argv or "-v" in sys.argv:
        import traceback

        traceback.print_exception(error)
