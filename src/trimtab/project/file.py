"""A project file as it lies on the disk: where it is found, and the YAML that is read from it."""

import re
from pathlib import Path
from typing import Any

import yaml

from trimtab.errors import ProjectError

FILE_NAME = "trimtab.yaml"


def find(path: Path | None = None) -> Path:
    """The project file that was named, else the nearest `trimtab.yaml` upwards."""
    if path is not None:
        return path / FILE_NAME if path.is_dir() else path
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / FILE_NAME).is_file():
            return folder / FILE_NAME
    raise ProjectError(
        f"no {FILE_NAME} in {here} or above it", hint="name a project, or write one: trimtab init"
    )


def read(file: Path) -> dict[str, Any]:
    """The fields of a file, unchecked. Raises ProjectError where it holds none."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ProjectError(
            f"{file}: no such file", hint="name a project, or write one: trimtab init"
        ) from None
    except UnicodeDecodeError as error:
        raise ProjectError(
            f"{file}: not UTF-8 at byte {error.start}", hint="save the file as UTF-8"
        ) from None
    except OSError as error:
        raise ProjectError(f"{file}: {error.strerror}", hint="check the path") from None
    try:
        content = yaml.load(text, _Yaml)
    except RecursionError:
        raise ProjectError(f"{file}: nested too deep", hint="a project is three deep") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise ProjectError(
            f"{file}{where}: {problem}", hint="mend the line, then: trimtab check"
        ) from None
    if not isinstance(content, dict):
        raise ProjectError(
            f"{file}: holds no project", hint="a project needs name, base and data.sources"
        )
    return content


class _Yaml(yaml.SafeLoader):
    """YAML as people write it: 2e-4 is a number, and no key may stand twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"'{key.value}' stands twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.2, section 10.2.1.4; the 1.1 that PyYAML reads wants a dot in 2e-4.
_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)
