"""A whole project, and every fault of the file that declares it."""

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, ValidationError

from trimtab.errors import ProjectError
from trimtab.project.data import Data
from trimtab.project.deploy import Deploy
from trimtab.project.evaluate import Evaluate
from trimtab.project.faults import fault
from trimtab.project.file import FILE_NAME, read
from trimtab.project.section import Name, Section
from trimtab.project.serve import Serve
from trimtab.project.sweep import SWEPT, Sweep
from trimtab.project.train import Train


class Project(Section):
    """A whole project file, checked. `root` is the folder that relative paths start from."""

    name: Name
    base: Annotated[str, Field(min_length=1)]
    data: Data
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    deploy: Deploy = Deploy()
    serve: Serve = Serve()
    sweep: Sweep | None = None
    _root: Path = PrivateAttr(default_factory=Path)

    @property
    def root(self) -> Path:
        return self._root

    @property
    def deployment(self) -> str:
        """The name of the deployment that the loop promotes to."""
        return self.deploy.name or self.name

    @classmethod
    def load(cls, path: Path | str) -> "Project":
        """Read a project file, or the one in a folder. Raises ProjectError with every fault."""
        file = Path(path)
        if file.is_dir():
            file = file / FILE_NAME
        faults, project = check(file)
        if project is None:
            more = f" (and {len(faults) - 1} more: trimtab check)" if len(faults) > 1 else ""
            raise ProjectError(faults[0].message + more, hint=faults[0].hint)
        return project


def with_fields(project: Project, fields: Mapping[str, Any]) -> Project:
    """The project with fields of `train`, each by its full name, as a sweep tries them.

    Raises pydantic's ValidationError for a value that the field does not take.
    """
    train = project.train.model_dump()
    for name, value in fields.items():
        _, field, *inner = name.split(".", 2)
        train[field] = train[field] | {inner[0]: value} if inner else value
    return project.model_copy(update={"train": Train.model_validate(train)})


def check(file: Path) -> tuple[list[ProjectError], Project | None]:
    """Every fault of a project file, one error each; the project where there is none."""
    try:
        project = Project.model_validate(read(file))
    except ProjectError as error:
        return [error], None
    except ValidationError as error:
        # A misspelt field is a missing one too: what was written goes before what was not.
        found = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
        return [fault(file, dict(item), Project) for item in found], None
    project._root = file.resolve().parent
    if faults := list(_sweep_faults(file, project)):
        return faults, None
    return [], project


def _sweep_faults(file: Path, project: Project) -> Iterator[ProjectError]:
    """What cannot be tried: names that are no field of `train`, values that it does not take."""
    known = [f"train.{field}" for field in SWEPT]
    for name, values in project.sweep.over.items() if project.sweep else ():
        if name not in known and not re.fullmatch(r"train\.extra\.\w+", name):
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            yield ProjectError(
                f"{file}: field 'sweep.over': '{name}' is nothing to try",
                hint=f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}",
            )
            continue
        for value in values:
            try:
                with_fields(project, {name: value})
            except ValidationError as error:
                message = str(error.errors()[0]["msg"])
                yield ProjectError(
                    f"{file}: field 'sweep.over.{name}': {message[:1].lower()}{message[1:]} "
                    f"(given: {value!r})",
                    hint=f"see {name} in the commented file that trimtab init writes",
                )
