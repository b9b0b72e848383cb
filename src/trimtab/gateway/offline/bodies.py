"""Files and batches on the wire, as OpenAI's clients know them
(https://platform.openai.com/docs/api-reference/batch)."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, StringConstraints, model_validator

from trimtab.gateway.bodies import Body, Label, Text
from trimtab.gateway.offline.files import File

Route = Literal[
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/generate", "/v1/score"
]
WINDOW = r"^([1-9][0-9]{0,2})([hd])$"
LONGEST_S = 7 * 24 * 3600


class FileBody(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"

    @classmethod
    def of(cls, file: File) -> Self:
        return cls(
            id=file.id,
            bytes=file.bytes,
            created_at=file.created_us // 1_000_000,
            expires_at=file.expires_us // 1_000_000,
            filename=file.name,
            purpose=file.purpose,
        )


class FileList(BaseModel):
    object: Literal["list"] = "list"
    data: list[FileBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


MetadataName = Annotated[Label, StringConstraints(min_length=1, max_length=64)]
MetadataText = Annotated[Text, StringConstraints(max_length=512)]


class BatchBody(Body):
    """`completion_window` is 1h to 168h, or 1d to 7d; what is not done then has failed."""

    input_file_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    endpoint: Route
    completion_window: Annotated[str, StringConstraints(pattern=WINDOW)]
    metadata: Annotated[dict[MetadataName, MetadataText], Field(max_length=16)] | None = None

    @property
    def window_s(self) -> int:
        number, unit = int(self.completion_window[:-1]), self.completion_window[-1]
        return number * (3600 if unit == "h" else 24 * 3600)

    @model_validator(mode="after")
    def _not_too_long(self) -> Self:
        if self.window_s > LONGEST_S:
            raise ValueError("completion_window: at most 7d")
        return self


class Counts(BaseModel):
    total: int
    completed: int
    failed: int


class Waiting(BaseModel):
    """Beyond OpenAI's fields: what a batch that does not go on waits for, and until when."""

    waits_for: str | None
    not_before: int | None


class BatchOut(BaseModel):
    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: None = None
    input_file_id: str
    completion_window: str
    status: Literal["in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: None = None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: Counts
    metadata: dict[str, str] | None
    trimtab: Waiting


class BatchList(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchOut]
    first_id: str | None
    last_id: str | None
    has_more: bool
