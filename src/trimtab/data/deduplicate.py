"""Finds records that are in a dataset twice: to the letter, or nearly.

Candidates for near duplicates come from MinHash (rensa); each is then verified by the true Jaccard
similarity, so that a drop never rests on an estimate.
"""

from collections.abc import Iterable

from trimtab.data.dropped import Dropped
from trimtab.data.record import Record, normalise

SIMILAR = 0.7
SHINGLE = 5
PERMUTATIONS = 128
# Four rows a band: a pair at Jaccard 0.7 is missed once in 6,500 times, (1 - 0.7^4)^32.
BANDS = 32


def deduplicate(records: Iterable[Record]) -> tuple[list[Record], list[Dropped]]:
    """Keep one record of each group of duplicates, whatever order they came in.

    A question is kept once even where its answers differ: an item of an evaluation has one gold
    answer, paired tests want items that do not hang together, and two labels for one question are
    a contradiction more often than a choice. The drop says that its answer was another one, so that
    somebody can look; the record with the smallest hash stays, which favours no answer. Where
    answers were judged, a question may come once with a good one and once with a bad one.
    """
    exact, dropped = _exact(sorted(records, key=lambda r: (r.hash, r.source, r.line)))
    kept: list[Record] = []
    for judged in (None, True, False):
        near, more = _near([record for record in exact if record.label is judged])
        kept += near
        dropped += more
    return kept, dropped


def _exact(records: list[Record]) -> tuple[list[Record], list[Dropped]]:
    kept: dict[tuple[str, str], Record] = {}
    dropped: list[Dropped] = []
    for record in records:
        key = (record.prompt_hash, normalise(record.answer))
        if key in kept:
            dropped.append(Dropped.of(record, "exact duplicate", f"of {kept[key].place}"))
        else:
            kept[key] = record
    return list(kept.values()), dropped


def _near(records: list[Record]) -> tuple[list[Record], list[Dropped]]:
    from rensa import RMinHash, RMinHashLSH

    index = RMinHashLSH(threshold=SIMILAR, num_perm=PERMUTATIONS, num_bands=BANDS)
    kept: list[tuple[Record, frozenset[str]]] = []
    dropped: list[Dropped] = []
    for record in records:
        grams = shingles(record.asked)
        sketch = RMinHash(num_perm=PERMUTATIONS, seed=42)
        sketch.update(sorted(grams))
        twin = _most_similar(grams, [kept[place] for place in sorted(index.query(sketch))])
        if twin is not None:
            other, similarity = twin
            same = normalise(record.answer) == normalise(other.answer)
            answered = "" if same else ", with another answer"
            detail = f"of {other.place}, Jaccard {similarity:.2f}{answered}"
            dropped.append(Dropped.of(record, "near duplicate", detail))
            continue
        index.insert(len(kept), sketch)
        kept.append((record, grams))
    return [record for record, _ in kept], dropped


def _most_similar(
    grams: frozenset[str], candidates: list[tuple[Record, frozenset[str]]]
) -> tuple[Record, float] | None:
    """The candidate most like these shingles, where one is similar enough."""
    similar = [(jaccard(grams, others), record) for record, others in candidates]
    best = max(similar, key=lambda pair: (pair[0], pair[1].hash), default=(0.0, None))
    return (best[1], best[0]) if best[1] is not None and best[0] >= SIMILAR else None


def shingles(text: str) -> frozenset[str]:
    """Runs of five characters of the normalised text; a shorter text is one shingle."""
    text = normalise(text)
    return frozenset(text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other)
