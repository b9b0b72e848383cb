"""A run that measures a part: what earlier runs found stays, each row with what tells its run."""

from typing import Any

Found = dict[str, Any]
WHOLE = ("precisions", "spared")


def merged(found: Found, earlier: Found) -> Found:
    """`found`, and of `earlier` the cases of systems that it has no value of. What this run only
    says it left out gives way to what was measured.
    """
    known = _measured(earlier)
    rows = [
        {**row, **_origin(found)}
        for row in found["rows"]
        if row["value"] is not None or _case(row) not in known
    ]
    mine = {_case(row) for row in rows}
    rows += [{**_origin(earlier), **row} for row in earlier["rows"] if _case(row) not in mine]
    order = list(dict.fromkeys(_case(row) for row in (*earlier["rows"], *rows)))
    rows.sort(key=lambda row: order.index(_case(row)))
    whole = {name: {**earlier[name], **found[name]} for name in WHOLE}
    rounds = max(found["rounds"], earlier["rounds"])
    return {**found, **whole, "rounds": rounds, "rows": rows}


def _measured(found: Found) -> set[tuple[str, str]]:
    return {_case(row) for row in found["rows"] if row["value"] is not None}


def _case(row: Found) -> tuple[str, str]:
    return row["system"], row["case"]


def _origin(found: Found) -> Found:
    return {name: found[name] for name in ("commit", "date", "rounds")}
