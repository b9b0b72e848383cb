"""The public functions: what `import trimtab` offers beside `Project`.

project = trimtab.Project.load("trimtab.yaml")
outcome = trimtab.run(project)          # the whole loop, or as far as it may go
trimtab.serve(project, port=8080)       # until interrupted
"""

from pathlib import Path

from trimtab.flows.loop import Outcome, run
from trimtab.flows.watch import Watch
from trimtab.project import Project
from trimtab.store.home import Home, find_home

__all__ = ["evaluate", "plan", "run", "serve", "train"]


def plan(project: Project, home: Home | None = None, *, watch: Watch | None = None) -> Outcome:
    """The loop as far as the plan: `outcome.outputs["plan"]`."""
    return run(project, home, until="plan", watch=watch)


def train(project: Project, home: Home | None = None, *, watch: Watch | None = None) -> Outcome:
    """The loop as far as a trained adapter: `outcome.outputs["train"]`."""
    return run(project, home, until="train", watch=watch)


def evaluate(project: Project, home: Home | None = None, *, watch: Watch | None = None) -> Outcome:
    """The loop as far as the gate: `outcome.outputs["gate"]`, with the verdict and its evidence."""
    return run(project, home, until="gate", watch=watch)


def serve(
    project: Project | None = None,
    home: Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    gateways: int = 1,
) -> None:
    """Serve the deployments of a home until SIGTERM or SIGINT; call it from the main thread."""
    from trimtab.flows.supervisor import Supervisor

    opened = find_home(home, project.root if project else None)
    Supervisor(opened, host, port, gateways, project).run(on_ready=print, on_event=print)
