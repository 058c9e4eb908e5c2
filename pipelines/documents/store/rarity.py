"""By which words of a question candidates are found, where too many chunks hold any of them to rank all."""

from collections.abc import Sequence
from itertools import accumulate, combinations

from playhouse.pool import PooledPostgresqlDatabase

MOST_PAIRED = 8  # words: 28 pairs

# Postgres' own statistics know in what share of all chunks each of the commonest thousand lexemes is; what
# is not among them counts as rare. A lone CJK character stands for all lexemes that it begins.
_ROWS = """
WITH common AS MATERIALIZED (
    SELECT lexeme, frequency
    FROM pg_stats, unnest(most_common_elems::text::text[], most_common_elem_freqs) AS e (lexeme, frequency)
    WHERE schemaname = current_schema() AND tablename = 'chunks' AND attname = 'tsv' AND lexeme IS NOT NULL
), asked AS MATERIALIZED (
    SELECT place, word, tsvector_to_array(to_tsvector('english', rtrim(word, ':*'))) AS lexemes
    FROM unnest(%(words)s::text[]) WITH ORDINALITY AS w (word, place)
)
SELECT word, coalesce(rows, 0)
FROM asked, LATERAL (
    SELECT sum(frequency) * (SELECT reltuples FROM pg_class WHERE oid = 'chunks'::regclass) AS rows
    FROM common WHERE lexeme = ANY (lexemes) OR word LIKE '%%:*' AND starts_with(lexeme, lexemes[1])
) r
WHERE cardinality(lexemes) > 0
ORDER BY 2, place"""


def narrowed(database: PooledPostgresqlDatabase, words: Sequence[str], most: int) -> list[str]:
    """Queries for `to_tsquery` that find the chunks that matter for ``words``, the best ones first.

    The rarest words tell the most, so chunks are found by as many of them as have ``most`` holders together,
    and those that hold two of these come first. If the rarest one alone has more, those that hold another
    word too come first. All words count in the ranking, whatever a chunk is found by.
    """
    held = database.execute_sql(_ROWS, {"words": list(words)}).fetchall()
    if not held:
        return [""]
    totals = accumulate(rows for _, rows in held)
    chosen = [word for (word, _), total in zip(held, totals, strict=True) if total <= most]
    either = " | ".join(chosen)
    if chosen:
        first = " | ".join(f"{one} & {other}" for one, other in combinations(chosen[:MOST_PAIRED], 2))
    else:
        either, first = held[0][0], " | ".join(f"{held[0][0]} & {other}" for other, _ in held[1:])
    return [first, f"({either}) & !({first})"] if first else [either]
