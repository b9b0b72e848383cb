"""The breaker against a model of it, and its promises one by one."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trimtab.gateway.tiers.breaker import FAILURES, LONGEST_S, OPEN_S, Breaker, Permit


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def made() -> tuple[Breaker, Clock]:
    clock = Clock()
    return Breaker(clock, lambda: 0.0), clock


def permit(breaker: Breaker) -> Permit:
    found = breaker.allow()
    assert found is not None
    return found


def opened() -> tuple[Breaker, Clock]:
    breaker, clock = made()
    for _ in range(FAILURES):
        permit(breaker).failed()
    return breaker, clock


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    breaker, _ = made()
    for _ in range(FAILURES - 1):
        permit(breaker).failed()
    permit(breaker).succeeded()
    for _ in range(FAILURES - 1):
        permit(breaker).failed()
    assert breaker.state == "closed"
    permit(breaker).failed()
    assert breaker.state == "open"
    assert breaker.allow() is None
    assert breaker.wait_s == OPEN_S


def test_clients_that_leave_say_nothing() -> None:
    breaker, _ = made()
    for _ in range(FAILURES * 3):
        permit(breaker).left()
    assert breaker.state == "closed"
    for _ in range(FAILURES - 1):
        permit(breaker).failed()
    permit(breaker).left()
    permit(breaker).failed()
    assert breaker.state == "open"


def test_half_open_lets_one_probe_through() -> None:
    breaker, clock = opened()
    clock.now += OPEN_S
    assert breaker.state == "half-open"
    probe = permit(breaker)
    assert breaker.state == "half-open"
    assert breaker.allow() is None
    probe.left()  # the next one probes instead
    probe = permit(breaker)
    probe.succeeded()
    assert breaker.state == "closed"
    assert breaker.wait_s == 0


def test_a_failed_probe_opens_for_longer_each_time_up_to_a_cap() -> None:
    breaker, clock = opened()
    waits = []
    for _ in range(12):
        waits.append(breaker.wait_s)
        clock.now += breaker.wait_s
        permit(breaker).failed()
    assert waits == [min(LONGEST_S, OPEN_S * number) for number in range(1, 13)]
    clock.now += breaker.wait_s
    permit(breaker).succeeded()
    for _ in range(FAILURES):
        permit(breaker).failed()
    assert breaker.wait_s == OPEN_S


def test_the_jitter_lengthens_by_a_tenth_at_most() -> None:
    clock = Clock()
    breaker = Breaker(clock, lambda: 1.0)
    for _ in range(FAILURES):
        permit(breaker).failed()
    assert breaker.wait_s == OPEN_S * 1.1


def test_words_from_before_count_nothing_after() -> None:
    breaker, clock = made()
    early = [permit(breaker) for _ in range(FAILURES + 2)]
    for late in early[:FAILURES]:
        late.failed()
    assert breaker.state == "open"
    early[-1].succeeded()
    assert breaker.state == "open"
    clock.now += OPEN_S
    probe = permit(breaker)
    early[-2].failed()
    assert breaker.state == "half-open"
    probe.succeeded()
    probe.failed()
    assert breaker.state == "closed"


def test_a_late_word_counts_in_no_era_after_its_own() -> None:
    breaker, clock = made()
    late: list[Permit] = []
    for _ in range(3):
        late += [permit(breaker) for _ in range(2 * FAILURES)]
        for _ in range(FAILURES):
            permit(breaker).failed()
        clock.now += breaker.wait_s
        permit(breaker).succeeded()
        words, late[::2] = late[::2], [permit(breaker) for _ in late[::2]]
        for word in words:
            word.failed()
        assert breaker.state == "closed"
        for fresh in late[::2]:
            fresh.left()


def test_the_first_word_about_an_end_counts_alone() -> None:
    breaker, clock = made()
    one = permit(breaker)
    for _ in range(FAILURES):
        one.failed()
    assert breaker.state == "closed"
    breaker, clock = opened()
    clock.now += OPEN_S
    first = permit(breaker)
    first.left()
    permit(breaker)
    first.succeeded()
    first.failed()
    assert breaker.state == "half-open"
    assert breaker.allow() is None


class Breaking(RuleBasedStateMachine):
    """The model keeps what the text of the module says, and nothing of its code."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker, self.clock = made()
        self.state, self.row, self.openings, self.until = "closed", 0, 0, 0.0
        self.out: list[tuple[Permit, int]] = []
        self.era = 0
        self.probing = False

    @rule()
    def ask(self) -> None:
        got = self.breaker.allow()
        ready = self.state == "open" and self.clock.now >= self.until and not self.probing
        assert (got is not None) == (self.state == "closed" or ready)
        if got is not None:
            self.probing = ready
            self.out.append((got, self.era))

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 10**6), went=st.sampled_from(["well", "badly", "away"]))
    def tell(self, which: int, went: str) -> None:
        told, era = self.out.pop(which % len(self.out))
        {"well": told.succeeded, "badly": told.failed, "away": told.left}[went]()
        if era != self.era:
            return
        if self.state == "closed":
            self.row = {"well": 0, "badly": self.row + 1, "away": self.row}[went]
            if self.row >= FAILURES:
                self._open()
        else:
            self.probing = False
            if went == "well":
                self.state, self.row, self.openings = "closed", 0, 0
                self.era += 1
            elif went == "badly":
                self._open()

    @rule(seconds=st.floats(0, 400))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def one_probe_at_most(self) -> None:
        assert (self.breaker.state == "closed") == (self.state == "closed")
        if self.state == "open":
            assert sum(era == self.era for _, era in self.out) <= 1

    def _open(self) -> None:
        self.state, self.probing = "open", False
        self.openings += 1
        self.era += 1
        self.until = self.clock.now + min(LONGEST_S, OPEN_S * self.openings)


Breaking.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBreaking = Breaking.TestCase
