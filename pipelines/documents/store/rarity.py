"""By which words of a question candidates are found, where too many chunks hold any of them to rank all."""

from collections.abc import Sequence
from itertools import accumulate

from playhouse.pool import PooledPostgresqlDatabase

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
    """Queries for `to_tsquery` that find about ``most`` chunks that matter for ``words``, best query first.

    The rarest words tell the most, so chunks are found by as many of them as have ``most`` holders together.
    If the rarest one alone has more, those that hold another one too come first. All words count in the
    ranking, whatever a chunk is found by.
    """
    held = database.execute_sql(_ROWS, {"words": list(words)}).fetchall()
    if not held:
        return [""]
    rarest, others = held[0][0], " | ".join(word for word, _ in held[1:])
    if held[0][1] > most:
        return [f"{rarest} & ({others})", f"{rarest} & !({others})"] if others else [rarest]
    totals = accumulate(rows for _, rows in held)
    return [" | ".join(word for (word, _), total in zip(held, totals, strict=True) if total <= most)]
