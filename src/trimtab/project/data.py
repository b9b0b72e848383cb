"""The fields of `data`: where records come from, and what of them is held back."""

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from trimtab.project.section import Section


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
