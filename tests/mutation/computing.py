"""A pytest plugin: a test may compute for so many seconds, however long it waits for a processor.

None of these tests needs a quarter of it; one that computes on hangs, and its process ends with
SIGXCPU, which mutmut takes for a time-out. It knows nothing of tests that wait: those have mutmut's
own limit, by the clock.
"""

import resource
import time
from collections.abc import Iterator

import pytest

SECONDS = 15


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    limit = int(time.process_time()) + SECONDS
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))
    try:
        return (yield)
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
