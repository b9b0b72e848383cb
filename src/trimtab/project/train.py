"""The fields of `train`: what is learnt, how, on what, and for how much."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from trimtab.project.section import Section


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
    turns: Literal["last", "every"] = "last"
    learning_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    max_length: Annotated[int, Field(ge=16)] = 512
    seed: int = 17
    budget_usd: Annotated[float, Field(ge=0)] | None = None
    deadline_hours: Annotated[float, Field(gt=0)] | None = None
    usd_hour: Annotated[float, Field(ge=0)] = 0.0
    patience: Annotated[int, Field(ge=1)] | None = None
    rewards: list[str] = Field(default=["exact_match"])
    # The credentials of a tracker are no part of its URI.
    publish: list[Annotated[str, Field(pattern=r"^(tensorboard|mlflow(:[^\s@]+)?)$")]] = Field(
        default=[]
    )
    extra: dict[str, Any] = Field(default={})
    launcher: Launcher = Launcher()
