"""The fields of `serve`: which engine answers, and its price."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from trimtab.project.section import Section


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
