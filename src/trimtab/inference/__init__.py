"""What can be asked of a model: the `Engine` protocol and its value types.

Prompts are token ids. `text` turns messages into tokens before they come here, so nothing below
knows of messages, templates, keys or money.
"""

from trimtab.inference.answer import (
    Chunk,
    Completion,
    FinishReason,
    Score,
    Top,
    Usage,
    Vector,
    joined,
)
from trimtab.inference.engine import (
    Engine,
    VersionFiles,
    complete,
)
from trimtab.inference.message import (
    Calling,
    Message,
    ToolCall,
    ToolResult,
    message_json,
    message_of_json,
)
from trimtab.inference.proof import (
    NARROW_MEAN_NATS,
    NARROW_NATS,
    Probe,
    Proof,
)
from trimtab.inference.request import (
    EmbedRequest,
    GenerateRequest,
    Priority,
    Sampling,
    ScoreRequest,
)
from trimtab.inference.runtime import (
    Capabilities,
    Runtime,
    Service,
)

__all__ = [
    "NARROW_MEAN_NATS",
    "NARROW_NATS",
    "Calling",
    "Capabilities",
    "Chunk",
    "Completion",
    "EmbedRequest",
    "Engine",
    "FinishReason",
    "GenerateRequest",
    "Message",
    "Priority",
    "Probe",
    "Proof",
    "Runtime",
    "Sampling",
    "Score",
    "ScoreRequest",
    "Service",
    "ToolCall",
    "ToolResult",
    "Top",
    "Usage",
    "Vector",
    "VersionFiles",
    "complete",
    "joined",
    "message_json",
    "message_of_json",
]
