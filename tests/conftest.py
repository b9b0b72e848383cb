import pytest
from hypothesis import settings

pytest_plugins = ["tests.databases", "tests.disks", "tests.honesty"]

# The same examples every time, however slow the machine.
settings.register_profile("trimtab", deadline=None, derandomize=True)
settings.load_profile("trimtab")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests that fork come first: a process that has computed in threads forks into one that
    waits for threads it does not have.
    """
    items.sort(key=lambda item: "tests/crash/" not in item.nodeid)
