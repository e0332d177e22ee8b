"""Runs every query of docs/queries.md against a lake and compares some results with its ledger.

Usage: queries.py path/to/docs/queries.md path/to/lake
"""

import pathlib
import re
import sys

import duckdb

from readers import ledger

# Queries without results for a complete lake, such as the demo's.
EMPTY = {
    "Calls that were rated more than once",
    "Days without calls",
    "Does the table hold what the ledger says?",
}


def queries(page, lake):
    """Titles and statements, in order."""
    title = None
    for heading, statements in re.findall(
        r"^#+ ([^\n]*)$|^```sql\n(.*?)^```$", page, re.MULTILINE | re.DOTALL
    ):
        title = heading or title
        if statements:
            yield title, statements.replace("demo-lake", str(lake))


def ask(database, statements):
    """The rows of the last statement, by column name."""
    # Through Arrow: DuckDB's own rows need pytz for times with a zone.
    answer = database.sql(statements)
    return answer.to_arrow_table().to_pylist() if answer else []


def main(page, lake):
    database = duckdb.connect()
    statements = dict(queries(page.read_text(), lake))
    answers = {title: ask(database, query) for title, query in statements.items()}
    for title, answer in answers.items():
        assert title == "Queries" or bool(answer) != (title in EMPTY), f"{title}: {answer[:3]}"
    rows, seconds, charge, fees = ledger(lake)
    by_day = answers["Calls and spend by day"]
    assert sum(row["calls"] for row in by_day) == rows
    assert sum(row["usd"] for row in by_day) == charge
    by_trunk = answers["Cost by trunk and month"]
    assert sum(row["usd"] for row in by_trunk) == charge
    assert sum(row["forward_usd"] or 0 for row in by_trunk) == fees
    weeks = answers["What becomes of calls, week by week"]
    assert sum(count for week in weeks for name, count in week.items() if name != "week") == rows
    answered = sum(row["answered"] for row in by_day)
    assert sum(row["calls"] for row in answers["Who answers: people or machines"]) == answered
    assert all(row["peak"] > 0 for row in answers["How many calls at once: the peak of each day"])
    # These queries must find problems in a damaged lake.
    database.execute(
        DAMAGED.format(table=f"read_parquet('{lake}/cdrs/*/*.parquet', hive_partitioning = true)")
    )
    for title in EMPTY:
        assert ask(database, statements[title]), f"{title}: finds nothing"
    print(f"{len(answers) - 1} queries over {rows} calls")


# Without one day of a direction, and with a call that was rated twice.
DAMAGED = """
CREATE OR REPLACE VIEW cdrs AS
SELECT * FROM {table}
WHERE source_day > (SELECT min(source_day) FROM {table}) OR direction = 'placed'
UNION ALL
(SELECT * REPLACE (charge_usd + 1 AS charge_usd) FROM {table}
 WHERE direction = 'placed' AND charge_usd > 0 LIMIT 1)
"""


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
