"""What a run leaves: an adapter in PEFT's layout, or a whole model that is a base of its own."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.train.run import RunFolder, sync_folder

if TYPE_CHECKING:
    from trimtab.train.model import Attached

# What makes a folder a base beside its weights and its config.
BESIDE = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def save_result(attached: "Attached", base: Path, files: RunFolder) -> None:
    """Write the result under a temporary name, sync it, and rename it."""
    into = files.adapter if attached.method.frozen else files.model
    draft = into.with_name(f"{into.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    if attached.method.frozen:
        _save_adapter(attached, base, draft)
    else:
        _save_model(attached, base, draft)
    shutil.rmtree(into, ignore_errors=True)
    draft.replace(into)
    sync_folder(into)
    sync_folder(into.parent)


def _save_adapter(attached: "Attached", base: Path, folder: Path) -> None:
    """PEFT's own layout, less its model card; bottlenecks in the one that is ours."""
    from peft import PeftModel

    from trimtab import bottleneck

    if attached.bottlenecks is not None:
        bottleneck.save(attached.bottlenecks, folder, base.name)
        return
    model = attached.model
    assert isinstance(model, PeftModel)
    # A path of this machine has no business in a file that travels.
    model.peft_config["default"].base_model_name_or_path = base.name
    model.save_pretrained(str(folder), safe_serialization=True)
    (folder / "README.md").unlink()


def _save_model(attached: "Attached", base: Path, folder: Path) -> None:
    """Weights and config of the trained model, tokenizer and template of the base it began as."""
    attached.model.save_pretrained(str(folder), safe_serialization=True)
    for name in BESIDE:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
