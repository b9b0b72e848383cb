"""What the pages of all rooms have in common: a look, and that what comes from data is escaped.

Knows no page: each lies in its room, and takes the look in with `{% include "page.css" %}`.
"""

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template


def template(room: str, name: str) -> Template:
    """A room's template; it raises where it speaks of what it was not given."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(room, ""), PackageLoader("trimtab", "")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
