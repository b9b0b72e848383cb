"""The schedule by itself: nobody computes its tokens, and every sequence comes to its end."""

import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.conftest import VersionOf
from tests.engine.paths import Kept
from trimtab.engine.continuous.blocks import BLOCK, Blocks
from trimtab.engine.continuous.schedule import Schedule
from trimtab.engine.continuous.sequence import Generation, sequences
from trimtab.engine.jobs import GenerateJob, ScoreJob
from trimtab.engine.sampling.drawn import Drawn
from trimtab.inference import GenerateRequest, Priority, Sampling, ScoreRequest, VersionFiles
from trimtab.text.tokenizer import Tokenizer

BLOCKS = 8
MOST_STEPS = 3000


@pytest.fixture(scope="module")
def files(version_of: VersionOf) -> VersionFiles:
    return version_of("base")


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> Tokenizer:
    return Tokenizer(base)


def generation(
    files: VersionFiles,
    tokenizer: Tokenizer,
    length: int,
    count: int,
    deterministic: bool,
    priority: Priority,
    first: int = 3,
) -> Generation:
    """Prompts with the same `first` token begin alike."""
    sampling = Sampling(max_tokens=count, deterministic=deterministic)
    request = GenerateRequest("base", tuple(range(first, first + length)), sampling, "1", priority)
    return Generation(GenerateJob(request, Kept()), files, tokenizer)


def step(schedule: Schedule) -> None:
    shares = schedule.next()
    assert all(tokens >= 1 for _, tokens in shares)
    assert all(len(sequence.blocks) * BLOCK >= sequence.held + n for sequence, n in shares)
    drawing = [sequence for sequence, tokens in shares if sequence.wanted(tokens)]
    schedule.computed(shares)
    for sequence in drawing:
        assert isinstance(sequence, Generation)
        sequence.push(Drawn(5, -1.0))
    schedule.leave(lambda sequence: sequence.finished)


def finish(schedule: Schedule) -> None:
    for _ in range(MOST_STEPS):
        if not list(schedule):
            return
        step(schedule)
    raise AssertionError("somebody waits for ever")


def test_a_deterministic_answer_that_was_put_off_waits_again(
    files: VersionFiles, tokenizer: Tokenizer
) -> None:
    """Its answer has no names: of its blocks only those of its prompt can be found."""
    schedule = Schedule(Blocks(BLOCKS), 256)
    schedule.add(generation(files, tokenizer, 20, 100, False, "interactive"))
    schedule.add(generation(files, tokenizer, 10, 100, True, "batch"))
    finish(schedule)
    assert schedule.blocks.available == BLOCKS


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    asked=st.lists(
        st.tuples(
            st.integers(1, 60),
            st.integers(1, 60),
            st.booleans(),
            st.sampled_from(["interactive", "batch", "shadow"]),
            st.integers(0, 20),
            st.booleans(),
            st.integers(3, 5),
        ),
        min_size=1,
        max_size=7,
    ),
    prompt_tokens=st.integers(BLOCK, 40),
    running=st.integers(1, 7),
)
def test_every_share_is_of_a_token_at_least(
    files: VersionFiles,
    tokenizer: Tokenizer,
    asked: list[tuple[int, int, bool, Priority, int, bool, int]],
    prompt_tokens: int,
    running: int,
) -> None:
    schedule = Schedule(Blocks(BLOCKS), prompt_tokens, running)
    for length, count, deterministic, priority, steps, put_off, first in asked:
        schedule.add(generation(files, tokenizer, length, count, deterministic, priority, first))
        for _ in range(steps):
            step(schedule)
        if put_off and schedule._running:
            schedule._put_off(schedule._running[-1])
    finish(schedule)
    assert schedule.blocks.available == BLOCKS


def test_what_replays_its_answer_takes_nothing_from_the_next_prompt(
    files: VersionFiles, tokenizer: Tokenizer
) -> None:
    """The budget is spent by the first prompt; the second answers again, the third has to wait."""
    schedule = Schedule(Blocks(16), BLOCK)
    schedule.add(generation(files, tokenizer, 4, 40, True, "batch"))
    for _ in range(30):
        step(schedule)
    schedule._put_off(schedule._running[0])
    step(schedule)
    schedule.add(generation(files, tokenizer, 50, 1, False, "interactive"))
    schedule.add(generation(files, tokenizer, 33, 1, False, "shadow", first=9))
    finish(schedule)


def test_prompts_give_way_to_answers_that_have_begun(
    files: VersionFiles, tokenizer: Tokenizer
) -> None:
    schedule = Schedule(Blocks(2 * BLOCKS), 256)
    begun = generation(files, tokenizer, 20, 100, False, "interactive")
    schedule.add(begun)
    schedule.computed(schedule.next(48))
    begun.push(Drawn(7, -1.0))
    schedule.add(generation(files, tokenizer, 90, 100, False, "interactive", first=200))
    read = []
    for _ in range(2):
        shares = schedule.next(48)
        read.append([share.tokens for share in shares])
        schedule.computed(shares)
        begun.push(Drawn(7, -1.0))
    assert read == [[1, 48], [1, 42]]


@pytest.mark.parametrize(("later_s", "first"), [(0.0, "short"), (0.5, "short"), (5.0, "long")])
def test_a_short_prompt_goes_before_a_long_one_that_did_not_wait_long(
    files: VersionFiles, tokenizer: Tokenizer, later_s: float, first: str
) -> None:
    """To read the long one takes 0.9 s."""
    schedule = Schedule(Blocks(2 * BLOCKS), BLOCK)
    long = generation(files, tokenizer, 90, 4, False, "interactive")
    short = generation(files, tokenizer, 14, 4, False, "interactive", first=200)
    short.job.arrived = long.job.arrived + later_s
    schedule.add(long)
    schedule.add(short)
    [share, *_] = schedule.next(token_s=0.01)
    assert share.sequence is (short if first == "short" else long)


def test_a_short_prompt_goes_before_none_of_a_higher_priority(
    files: VersionFiles, tokenizer: Tokenizer
) -> None:
    schedule = Schedule(Blocks(2 * BLOCKS), BLOCK)
    schedule.add(generation(files, tokenizer, 14, 4, False, "batch", first=200))
    long = generation(files, tokenizer, 90, 4, False, "interactive")
    schedule.add(long)
    [share] = schedule.next(token_s=0.01)
    assert share.sequence is long


@pytest.mark.parametrize(
    ("blocks", "running", "length"),
    [(4 * BLOCKS, 2, 20), (6, 32, 40)],
    ids=["no place", "no room"],
)
def test_who_somebody_waits_for_takes_the_place_of_what_came_last(
    files: VersionFiles, tokenizer: Tokenizer, blocks: int, running: int, length: int
) -> None:
    """Batches hold every place or block when it comes; they go on when it is done."""
    schedule = Schedule(Blocks(blocks), 256, running)
    batches = [
        generation(files, tokenizer, length, 12, False, "batch", first=first) for first in (3, 100)
    ]
    for batch in batches:
        schedule.add(batch)
    for _ in range(3):
        step(schedule)
    assert all(len(batch.answer.tokens) == 3 for batch in batches)
    urgent = generation(files, tokenizer, 5, 4, False, "interactive", first=200)
    another = generation(files, tokenizer, length, 1, False, "batch", first=300)
    schedule.add(another)
    schedule.add(urgent)
    step(schedule)
    assert [len(each.answer.tokens) for each in (urgent, *batches)] == [1, 4, 3]
    assert not another.begun, "what is no more urgent takes nobody's place"
    while not urgent.finished:
        step(schedule)
    finish(schedule)
    assert all(each.finished for each in (*batches, another))
    assert schedule.blocks.available == blocks


def test_who_waits_is_counted_by_the_job_for_those_that_go_behind(
    files: VersionFiles, tokenizer: Tokenizer
) -> None:
    schedule = Schedule(Blocks(BLOCKS), 256)
    priorities: tuple[Priority, ...] = ("interactive", "batch", "shadow")
    for priority in priorities:
        asked = ScoreRequest("base", (5, 6), ((7,), (8, 9), (4,)), priority, priority)
        for sequence in sequences(ScoreJob(asked, Kept())):
            schedule.add(sequence)
    assert [schedule.waiting(rank) for rank in range(3)] == [1, 2, 3]


def alike(
    files: VersionFiles, tokenizer: Tokenizer, shared: int, number: int, priority: Priority
) -> Generation:
    """Of 40 tokens; those of other numbers have the first ones in common with it."""
    own = 100 * (1 + number)
    row = (*range(3, 3 + shared), *range(own, own + 40 - shared))
    request = GenerateRequest("base", row, Sampling(max_tokens=2), str(number), priority)
    return Generation(GenerateJob(request, Kept()), files, tokenizer)


@pytest.mark.parametrize(("shared", "known"), [(10, 10), (26, 26), (16 + 2, 16 + 2), (2, 0)])
def test_one_waits_for_the_part_of_a_block_that_another_is_reading(
    files: VersionFiles, tokenizer: Tokenizer, shared: int, known: int
) -> None:
    """Where it is worth a step; whole blocks always are, and bring the part behind them."""
    schedule = Schedule(Blocks(2 * BLOCKS), 256)
    pair = [alike(files, tokenizer, shared, number, "interactive") for number in range(2)]
    for sequence in pair:
        schedule.add(sequence)
    finish(schedule)
    assert [sequence.known for sequence in pair] == [0, known]
    assert [sequence.answer.cached for sequence in pair] == [0, known // BLOCK * BLOCK]


def test_nobody_waits_for_what_one_of_a_lower_priority_is_reading(
    files: VersionFiles, tokenizer: Tokenizer
) -> None:
    """It may not get its turn for long."""
    schedule = Schedule(Blocks(2 * BLOCKS), BLOCK)
    shadow = alike(files, tokenizer, 30, 0, "shadow")
    schedule.add(shadow)
    step(schedule)
    urgent = alike(files, tokenizer, 30, 1, "interactive")
    schedule.add(urgent)
    [share] = schedule.next()
    assert share.sequence is urgent


def test_what_one_computed_itself_before_it_was_put_off_is_not_counted_as_found(
    files: VersionFiles, tokenizer: Tokenizer
) -> None:
    schedule = Schedule(Blocks(BLOCKS), 24)
    sequence = generation(files, tokenizer, 40, 2, False, "interactive")
    schedule.add(sequence)
    step(schedule)
    schedule._put_off(schedule._running[0])
    finish(schedule)
    assert sequence.answer.finished
    assert sequence.known == 0


def test_who_leaves_between_two_questions_takes_no_block_along(
    files: VersionFiles, tokenizer: Tokenizer
) -> None:
    schedule = Schedule(Blocks(BLOCKS), 24)
    schedule.add(generation(files, tokenizer, 40, 2, False, "interactive"))
    step(schedule)
    asked = itertools.count()
    schedule.leave(lambda sequence: next(asked) > 0)
    schedule.leave(lambda sequence: True)
    assert schedule.blocks.available == BLOCKS


def test_nobody_makes_room_that_is_not_enough(files: VersionFiles, tokenizer: Tokenizer) -> None:
    schedule = Schedule(Blocks(BLOCKS), 256)
    first = generation(files, tokenizer, 4 * BLOCK, 8, False, "interactive")
    batch = generation(files, tokenizer, BLOCK, 8, False, "batch", 300)
    for sequence in (first, batch):
        schedule.add(sequence)
    step(schedule)
    schedule.add(generation(files, tokenizer, 6 * BLOCK, 8, False, "interactive", 600))
    assert {id(share.sequence) for share in schedule.next()} == {id(first), id(batch)}
