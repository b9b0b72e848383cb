from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.train.probes import CAP, FLOOR, PROMPTS, TOKENS, Probe, Probes, choose, tolerance
from trimtab.train.rows import Example


def example(record: int, answer: int) -> Example:
    return Example(record, tuple(range(10 + answer)), (False,) * 10 + (True,) * answer)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=300))
def test_enough_prompts_and_tokens_are_chosen_where_there_are_enough(answers: list[int]) -> None:
    examples = [example(i, answer) for i, answer in enumerate(answers)]
    chosen = choose(examples)
    assert len({item.record for item in chosen}) == len(chosen)
    assert len(chosen) >= min(PROMPTS, len(examples))
    assert len(chosen) == len(examples) or sum(item.supervised for item in chosen) >= TOKENS


def test_no_more_than_needed_are_chosen() -> None:
    assert len(choose([example(i, 40) for i in range(500)])) == PROMPTS


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_tolerance_is_three_spreads_within_bounds(dtype: str) -> None:
    assert tolerance(0.0, dtype) == FLOOR[dtype]
    assert tolerance(FLOOR[dtype], dtype) == pytest.approx(3 * FLOOR[dtype])
    assert tolerance(9.9, dtype) == CAP[dtype]


def test_probes_come_back_as_they_were_saved(tmp_path: Path) -> None:
    probes = Probes((Probe((1, 2), (3, 4), (-0.5, -1.25)),), "float32", 1e-6, 1e-4)
    probes.save(tmp_path / "probes.json")
    assert Probes.load(tmp_path / "probes.json") == probes
    assert probes.tokens == 2
