from hypothesis import settings

pytest_plugins = ["tests.databases", "tests.disks", "tests.honesty"]

# The same examples every time, however slow the machine.
settings.register_profile("trimtab", deadline=None, derandomize=True)
settings.load_profile("trimtab")
