"""What a user declares: one strict YAML file a project.

Every field has a default that works but `name`, `base` and `data.sources`; an unknown field is an
error that names the nearest known one. This module knows the fields, not what rooms do with them.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from trimtab.errors import ProjectError

FILE_NAME = "trimtab.yaml"
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
# What a safe template may speak of.
TEMPLATE = ("deployment", "trace_id", "session_id", "user_id", "reason")


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class PathSource(Section):
    """A file beside the project file: JSONL, JSON or CSV; its format is detected."""

    path: str


class HubSource(Section):
    """A dataset of the Hugging Face Hub."""

    hub: str
    split: str = "train"


KINDS: dict[str, type[Section]] = {"<path>": PathSource, "<hub>": HubSource}


def _kind(source: Any) -> str:
    # Chosen here, because the errors of a plain union speak of every branch at once.
    return "<hub>" if isinstance(source, dict) and "hub" in source else "<path>"


Source = Annotated[
    Annotated[PathSource, Tag("<path>")] | Annotated[HubSource, Tag("<hub>")],
    Discriminator(_kind),
]


class Data(Section):
    sources: Annotated[list[Source], Field(min_length=1)]
    system: str = ""
    template: Annotated[str, Field(min_length=1)] | None = None
    holdout: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    shadow: Annotated[float, Field(gt=0, lt=0.5)] = 0.04
    seed: int = 17


class Launcher(Section):
    """How many processes train, what lies in shards over them, and where state that a device has no
    room for goes. `auto` lets the plan choose, by devices and memory; `ranks` left out is one for
    each device.
    """

    kind: Literal["auto", "local", "torchrun", "ray", "tpu"] = "auto"
    ranks: Annotated[int, Field(ge=1)] | None = None
    sharding: Literal["none", "fsdp", "zero2", "zero3"] = "none"
    offload: Literal["none", "cpu", "nvme"] = "none"

    @model_validator(mode="after")
    def _auto_chooses_all(self) -> "Launcher":
        if self.kind == "auto" and (
            self.ranks is not None or self.sharding != "none" or self.offload != "none"
        ):
            raise ValueError("chooses ranks, sharding and offload itself: name a kind to set them")
        return self


class Train(Section):
    objective: Literal["sft", "dpo", "kto", "orpo", "reward", "grpo", "rloo", "ppo"] = "sft"
    method: Literal[
        "lora", "rslora", "dora", "qlora", "ia3", "prompt", "prefix", "bottleneck", "full"
    ] = "lora"
    rank: Annotated[int, Field(ge=1, le=512)] = 16
    alpha: Annotated[float, Field(gt=0)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: str | list[str] = "all-linear"
    epochs: Annotated[float, Field(gt=0)] = 1
    batch_size: Annotated[int, Field(ge=1)] = 8
    accumulation: Annotated[int, Field(ge=1)] = 1
    packing: bool = False
    learning_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    max_length: Annotated[int, Field(ge=16)] = 512
    seed: int = 17
    budget_usd: Annotated[float, Field(ge=0)] | None = None
    deadline_hours: Annotated[float, Field(gt=0)] | None = None
    usd_hour: Annotated[float, Field(ge=0)] = 0.0
    patience: Annotated[int, Field(ge=1)] | None = None
    rewards: list[str] = ["exact_match"]
    # The credentials of a tracker are no part of its URI.
    publish: list[Annotated[str, Field(pattern=r"^(tensorboard|mlflow(:[^\s@]+)?)$")]] = []
    extra: dict[str, Any] = {}
    launcher: Launcher = Launcher()


class Evaluate(Section):
    suites: list[Literal["holdout", "safety", "performance"]] = [
        "holdout",
        "safety",
        "performance",
    ]
    match: list[str] = []
    shots: Annotated[int, Field(ge=0, le=8)] = 3
    gate: Literal["exact_match", "log_likelihood", "preference"] = "exact_match"
    max_tokens: Annotated[int, Field(ge=1)] = 48

    @field_validator("suites")
    @classmethod
    def _the_gate_needs_the_holdout(cls, value: list[str]) -> list[str]:
        if "holdout" not in value:
            raise ValueError("the holdout suite decides the gate and cannot be left out")
        return value


class Slo(Section):
    p95_ms: Annotated[float, Field(gt=0)] = 1200
    availability: Annotated[float, Field(gt=0, le=1)] = 0.995


class Shadow(Section):
    requests: Annotated[int, Field(ge=1)] = 20


class Deploy(Section):
    """`safe_template` answers when no model can; its `$variables` are those of `TEMPLATE`.
    `log_prompts` keeps what is asked and answered, which is kept nowhere else.
    """

    name: Name | None = None
    slo: Slo = Slo()
    shadow: Shadow = Shadow()
    deadline_s: Annotated[float, Field(gt=0, le=600, allow_inf_nan=False)] = 120.0
    safe_template: Annotated[str, Field(min_length=1, max_length=4000)] | None = None
    log_prompts: bool = False

    @field_validator("safe_template")
    @classmethod
    def _its_variables_are_known(cls, value: str | None) -> str | None:
        if value is None:
            return None
        template = Template(value)
        unknown = sorted(set(template.get_identifiers()) - set(TEMPLATE))
        if unknown or not template.is_valid():
            raise ValueError(
                f"has an unknown variable '${unknown[0]}'; known: "
                f"{', '.join('$' + name for name in TEMPLATE)}"
                if unknown
                else "has a lone '$'; write '$$' for a dollar sign"
            )
        return value


class Price(Section):
    """Dollars for a million tokens; `cached` for those of prompts that were computed before, which
    cost what the others do where it is left out.
    """

    prompt: Annotated[float, Field(ge=0)]
    completion: Annotated[float, Field(ge=0)]
    cached: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _cached_is_no_dearer(self) -> "Price":
        if self.cached is not None and self.cached > self.prompt:
            raise ValueError("a cached token would cost more than another: cached is up to prompt")
        return self


class Serve(Section):
    """The built-in engine answers, unless a vLLM server is named: by its URL, or by the folder of
    an environment that one is started from. The key of a server is no part of its URL.

    `quantisation` is the built-in engine's.
    """

    vllm_url: Annotated[str, Field(pattern=r"^https?://[^\s/@]+(/\S*)?$")] | None = None
    vllm_env: Annotated[str, Field(min_length=1)] | None = None
    price: Price | None = None
    quantisation: Literal["none", "int8"] = "none"

    @model_validator(mode="after")
    def _one_engine_and_not_for_nothing(self) -> "Serve":
        if self.vllm_url is not None and self.vllm_env is not None:
            raise ValueError("names two engines: leave vllm_url or vllm_env out")
        if self.quantisation != "none" and (self.vllm_url or self.vllm_env):
            raise ValueError(
                "vLLM computes with the weights that it finds: leave quantisation out, or vllm_*"
            )
        if self.vllm_url is not None and self.price is None:
            raise ValueError(
                "a server at a URL needs a price, e.g. price: {prompt: 0.1, completion: 0.4};"
                " write 0 where it costs nothing"
            )
        return self


class Sweep(Section):
    """Values of fields of `train` to try, `trials` of their combinations; after each rung one in
    `eta` goes on. The budgets are for all trials together.
    """

    over: Annotated[dict[str, Annotated[list[Any], Field(min_length=1)]], Field(min_length=1)]
    trials: Annotated[int, Field(ge=2, le=1000)] = 9
    eta: Annotated[int, Field(ge=2)] = 3
    budget_usd: Annotated[float, Field(gt=0)] | None = None
    budget_hours: Annotated[float, Field(gt=0)] | None = None


# What a sweep may try: all that leaves the loss on the same held-out records comparable.
SWEPT = (
    "method",
    "rank",
    "alpha",
    "dropout",
    "targets",
    "epochs",
    "batch_size",
    "accumulation",
    "learning_rate",
)


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


def check(file: Path) -> tuple[list[ProjectError], Project | None]:
    """Every fault of a project file, one error each; the project where there is none."""
    try:
        content = _read(file)
        project = Project.model_validate(content)
    except ProjectError as error:
        return [error], None
    except ValidationError as error:
        # A misspelt field is a missing one too: what was written goes before what was not.
        found = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
        return [_fault(file, dict(item)) for item in found], None
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


def _read(file: Path) -> dict[str, Any]:
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


def _fault(file: Path, error: dict[str, Any]) -> ProjectError:
    # The kind of a source is ours to choose, and no field that anybody wrote.
    place = [str(part) for part in error["loc"] if part not in KINDS]
    field = ".".join(place) or "the file"
    if error["type"] == "extra_forbidden":
        known = _fields_at(error["loc"][:-1])
        near = difflib.get_close_matches(place[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(sorted(known))}"
        return ProjectError(f"{file}: unknown field '{field}'", hint=hint)
    if error["type"].startswith("model_"):
        return ProjectError(
            f"{file}: field '{field}' is no group of fields (given: {error['input']!r})",
            hint="e.g. {path: records.jsonl} for one of data.sources",
        )
    if error["type"] == "missing":
        return ProjectError(f"{file}: field '{field}' is missing", hint=f"add '{field}'")
    message = re.sub(r"^Value error, ", "", str(error["msg"]))
    given = error.get("input")
    shown = "" if isinstance(given, dict | list) else f" (given: {given!r})"
    return ProjectError(
        f"{file}: field '{field}': {message[:1].lower()}{message[1:]}{shown}",
        hint="see the commented file that trimtab init writes",
    )


def _fields_at(place: Sequence[int | str]) -> list[str]:
    """The fields of the section at a place, as pydantic names it."""
    if place and place[-1] in KINDS:
        return list(KINDS[str(place[-1])].model_fields)
    model: type[BaseModel] = Project
    for part in place:
        annotation = model.model_fields[str(part)].annotation
        # A section that may be left out is `Section | None`.
        annotation = next(iter(get_args(annotation)), annotation)
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        model = annotation
    return list(model.model_fields)
