"""What a user declares: one strict YAML file a project.

Every field has a default that works but `name`, `base` and `data.sources`; an unknown field is an
error that names the nearest known one. This room knows the fields, not what others do with them.
"""

from trimtab.project.data import HubSource, PathSource
from trimtab.project.deploy import TEMPLATE, Slo
from trimtab.project.file import FILE_NAME, find
from trimtab.project.project import Project, check, with_fields
from trimtab.project.train import Train

__all__ = [
    "FILE_NAME",
    "TEMPLATE",
    "HubSource",
    "PathSource",
    "Project",
    "Slo",
    "Train",
    "check",
    "find",
    "with_fields",
]
