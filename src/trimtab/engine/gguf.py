"""A GGUF file made into a folder that every room can load: bf16 safetensors and a tokenizer."""

import errno
import shutil
import tempfile
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from trimtab.errors import BaseError


def to_safetensors(gguf: Path, into: Path) -> None:
    """Dequantise `gguf` and save it into the folder `into`, whole or not at all.

    A folder that stands there already is left as it is. Raises BaseError where the file is not a
    GGUF of a model that transformers knows.
    """
    if into.exists():
        return
    if not gguf.is_file():
        raise BaseError(f"{gguf}: no such file", hint="pull the base again")
    into.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{into.name}.", dir=into.parent))
    try:
        _convert(gguf, building)
        building.chmod(0o755)
        building.rename(into)
    except OSError as error:
        # Somebody else was quicker, with the same result.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _convert(gguf: Path, into: Path) -> None:
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # Its bars would be drawn across those of whoever called, and not all of them can be turned off.
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with redirect_stderr(StringIO()):
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                dtype=torch.bfloat16,
                quantization_config=GgufConfig(dequantize=True),
            )
        model.save_pretrained(into)
        tokenizer.save_pretrained(into)
    except OSError:
        raise
    # Parsers in other people's libraries: what they raise for a damaged file has no one root.
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BaseError(
            f"{gguf}: cannot be read as a GGUF: {first}", hint="delete the file and pull it again"
        ) from error
    finally:
        transformers.logging.enable_progress_bar()  # type: ignore[no-untyped-call]
