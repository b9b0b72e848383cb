"""A loop on a real base: pulled, cut short, trained for a few steps, verified, judged, promoted."""

import json
from pathlib import Path

import pytest
import yaml

from tests.learning.preference import cut
from tests.tiny_project import write_records
from trimtab.errors import BaseError
from trimtab.flows.bases import resolve
from trimtab.flows.loop import run
from trimtab.flows.watch import Silent
from trimtab.project import Project

BASE = "smollm2-135m-instruct-q4"
LAYERS = 2
EXAMPLE = Path(__file__).parents[2] / "examples" / "support-desk" / "trimtab.yaml"


@pytest.fixture(scope="module")
def base_hash() -> str:
    try:
        return resolve(BASE, Path.cwd(), Silent()).hash
    except BaseError as error:
        pytest.skip(f"the base cannot be pulled here: {error.message}")


def test_the_catalogue_entry_is_the_model_that_was_meant(base_hash: str) -> None:
    """Over the bf16 tensors that the recorded GGUF dequantises to, and the config."""
    assert base_hash == "f262c72fe16f08af703cc1d778960656dce77160981fa37d128a002c45a52fa0"


def test_a_short_loop_on_its_first_layers_ends_with_a_better_version_live(
    base_hash: str, tmp_path: Path
) -> None:
    """With its tokenizer, template and embeddings; `make demo` is the loop on all thirty layers."""
    content = yaml.safe_load(EXAMPLE.read_text())
    content["base"] = str(cut(tmp_path / "base", LAYERS))
    content["data"] |= {"holdout": 0.15, "shadow": 0.08}
    content["train"] |= {"batch_size": 8, "epochs": 1, "deadline_hours": 1}
    content["evaluate"] |= {
        "gate": "log_likelihood",
        "suites": ["holdout"],
        "shots": 0,
        "max_tokens": 2,
    }
    content["deploy"]["slo"]["p95_ms"] = 60_000
    content["deploy"]["shadow"]["requests"] = 3
    (tmp_path / "trimtab.yaml").write_text(yaml.safe_dump(content))
    write_records(tmp_path / "tickets.jsonl", 60)
    outcome = run(Project.load(tmp_path))
    assert outcome.promoted, outcome.refused
    verified = outcome.outputs["verify"]
    assert verified["ok"]
    assert verified["tokens"] >= 1000
    assert verified["base_difference"] > 5 * verified["tolerance"]
    curve = json.loads(outcome.home.blobs.read_bytes(outcome.outputs["train"]["curve"]))
    assert curve[-1]["loss"] < curve[0]["loss"]
