import re

from trimtab.registry import catalogue
from trimtab.registry.catalogue import HubSource, WheelSource
from trimtab.registry.hub import hub_url


def test_every_file_has_a_sum() -> None:
    for entry in catalogue.ENTRIES:
        source = entry.source
        files = source.files if isinstance(source, HubSource) else (source.member,)
        sums = [file.sha256 for file in files]
        if isinstance(source, WheelSource):
            sums.append(source.wheel_sha256)
        assert all(re.fullmatch("[0-9a-f]{64}", found) for found in sums)


def test_a_file_of_the_hub_has_an_address() -> None:
    source = catalogue.SMOLLM2.source
    assert isinstance(source, HubSource)
    url = hub_url(source.repo, source.revision, "config.json")
    assert url.startswith("https://")
    assert url.endswith(f"{source.repo}/resolve/{source.revision}/config.json")
