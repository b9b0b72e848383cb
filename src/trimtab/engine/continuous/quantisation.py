"""The fast path in bytes: opted for, refused where it would be slower or worse."""

from pathlib import Path

import torch

from trimtab.engine.continuous.path import ContinuousPath
from trimtab.engine.continuous.quality import check
from trimtab.engine.llama.family import Shape
from trimtab.engine.llama.network import Llama
from trimtab.engine.llama.weights import load_weights
from trimtab.engine.ops.build import library
from trimtab.engine.ops.int8_ops import Int8Ops
from trimtab.engine.ops.native_ops import NativeOps, fits
from trimtab.engine.processor import require_vnni
from trimtab.errors import EngineError
from trimtab.text.tokenizer import Tokenizer

# Ordinary words of several kinds: what is compared is distributions, not answers.
TEXT = (
    "The invoice of March lists two seats that we returned in February. Could you correct it and "
    "send the credit note to our accounting department?\n\nimport json\n\ndef read(path):\n"
    "    with open(path) as file:\n        return json.load(file)\n\n"
    'Answer: {"intent": "billing", "urgency": "low"}. On 17 May 1954 the court decided, 9 to 0, '
    "that separate schools are unequal. Die Rechnung ist falsch. 12 + 30 = 42; 7 * 8 = 56."
)


def int8_path(base: Path, shape: Shape, dtype: torch.dtype, device: torch.device) -> ContinuousPath:
    """Raises EngineError where the processor or the machine's tools do not serve for it, and where
    the base's answers change by more than `quality` allows.
    """
    require_vnni()
    compiled = library() if fits(shape, dtype, device) else None
    if compiled is None:
        raise EngineError(
            "int8 needs the compiled kernels, which there are not for this base and machine",
            hint="install a C++ compiler, or serve without quantisation",
        )
    exact = NativeOps(compiled, dtype)
    path = ContinuousPath(base, shape, dtype, device, Int8Ops(compiled, dtype))
    weights = load_weights(base, shape, dtype, device, exact.arrange)
    tokens = Tokenizer(base).encode(TEXT)[: shape.context]
    check(Llama(shape, weights, exact), path.model, shape, tokens, dtype)
    return path
