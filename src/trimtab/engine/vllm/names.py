"""What a vLLM server can serve of a version, and the name that it knows it by.

vLLM finds cached blocks by an adapter's name and path: the hash of its content is in the name.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from trimtab.errors import IdentityError, RequestRefused
from trimtab.inference import Service, VersionFiles
from trimtab.registry.methods import method_of

METHODS: Mapping[str, Service] = {"lora": "mixed", "full": "mixed"}
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def name_of(files: VersionFiles, model: str, max_rank: int | None) -> str:
    """`model` is the name of the base, `max_rank` that of an adapter, None where nobody knows.

    Raises RequestRefused for what vLLM does not serve, IdentityError for damaged files.
    """
    if files.merged:
        raise RequestRefused(
            "vLLM serves the weights that it was started with, and no merged copy",
            hint="the built-in engine computes merged copies",
        )
    if files.adapter is None:
        return model
    try:
        content = [(files.adapter / name).read_bytes() for name in ADAPTER_FILES]
        config = json.loads(content[0])
        method, rank = method_of(config), _rank(config)
    except (OSError, ValueError, AttributeError) as error:
        raise IdentityError(
            f"{files.adapter}: {error}", hint="the adapter's files are damaged"
        ) from error
    if method not in METHODS:
        raise RequestRefused(
            f"vLLM does not serve adapters of the method {method}, only LoRA",
            hint="serve the version with the built-in engine",
        )
    if max_rank is not None and rank > max_rank:
        raise RequestRefused(
            f"{files.adapter}: a rank of {rank}, and vLLM is started for {max_rank}",
            hint="serve the version with the built-in engine",
        )
    digest = hashlib.sha256(b"".join(content)).hexdigest()
    return f"{files.version}@{digest[:16]}"


def _rank(config: dict[str, Any]) -> int:
    """The largest of an adapter: single layers may have one of their own."""
    return int(max([config.get("r") or 0, *(config.get("rank_pattern") or {}).values()]))
