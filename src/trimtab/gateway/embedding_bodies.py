"""What `/v1/embeddings` takes and gives (https://platform.openai.com/docs/api-reference/embeddings)."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from trimtab.gateway.bodies import Body, Label, Name, Scored

MOST_INPUTS = 2048

Token = Annotated[int, Field(ge=0, lt=2**31)]
Tokens = Annotated[list[Token], Field(min_length=1)]


class EmbeddingsBody(Body):
    """`input` is a text, texts, or ids of the encoder's own tokenizer without its frame."""

    model: Name
    input: (
        Scored
        | Annotated[list[Scored], Field(min_length=1, max_length=MOST_INPUTS)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=MOST_INPUTS)]
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    user: Annotated[Label, Field(max_length=128)] | None = None

    @property
    def inputs(self) -> Sequence[str | list[int]]:
        """One entry a vector."""
        if isinstance(self.input, str):
            return [self.input]
        tokens = [each for each in self.input if isinstance(each, int)]
        return [tokens] if tokens else [each for each in self.input if not isinstance(each, int)]


class EmbeddingBody(BaseModel):
    """`embedding` in base64 is little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """`trimtab` says who really answered, and at what cost."""

    object: Literal["list"] = "list"
    data: list[EmbeddingBody]
    model: str
    usage: EmbeddingUsage
    trimtab: dict[str, Any]
