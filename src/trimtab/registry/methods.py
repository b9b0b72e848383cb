"""By which method an adapter was made, as its config tells."""

from collections.abc import Mapping
from typing import Any

_BY_TYPE = {
    "LORA": "lora",
    "IA3": "ia3",
    "PROMPT_TUNING": "prompt_tuning",
    "PREFIX_TUNING": "prefix_tuning",
    "BOTTLENECK": "bottleneck",
}


def method_of(config: Mapping[str, Any]) -> str:
    """The method of an `adapter_config.json`; PEFT's own name, in small letters, of others."""
    kind = str(config.get("peft_type"))
    if kind == "LORA" and config.get("use_dora"):
        return "dora"
    return _BY_TYPE.get(kind, kind.lower())
