"""Compares every number of `cdrlake report` with what DuckDB says about the files of the lake.

Usage: report.py path/to/cdrlake

The lakes, one of days in UTC and one of months in Europe/Berlin, are loaded from a made export with
disruptions, a price that rises and, in the first one, a day that is missing. Exactly these must be
found.
"""

import datetime
import html.parser
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import zoneinfo
from decimal import Decimal

import duckdb

UTC = datetime.timezone.utc
DAY, HOUR = datetime.timedelta(days=1), datetime.timedelta(hours=1)
# Only calls before and after a month show that an export has all of it.
FIRST, LAST = datetime.date(2025, 12, 31), datetime.date(2026, 5, 3)
# Clocks in Berlin go forward on 29 March.
FROM, TO = datetime.date(2026, 3, 12), datetime.date(2026, 4, 10)
DAYS = (TO - FROM).days + 1
BEFORE = FROM - DAYS * DAY
BASELINE = FROM - 56 * DAY
# (direction, first hour, hours, kind)
DISRUPTIONS = [
    ("placed", datetime.datetime(2026, 3, 20, 10, tzinfo=UTC), 1, "failed"),
    ("placed", datetime.datetime(2026, 3, 24, 13, tzinfo=UTC), 2, "busy"),
    # The same hour of the week as the first one, which does not count as usual.
    ("placed", datetime.datetime(2026, 3, 27, 10, tzinfo=UTC), 1, "failed"),
    ("placed", datetime.datetime(2026, 3, 31, 12, tzinfo=UTC), 1, "acd"),
    ("received", datetime.datetime(2026, 4, 2, 9, tzinfo=UTC), 1, "silence"),
    ("received", datetime.datetime(2026, 4, 8, 12, tzinfo=UTC), 1, "asr"),
]
MISSING = ("received", datetime.date(2026, 4, 5))
RISES = ("Germany, mobile", datetime.date(2026, 3, 26), Decimal("0.0945"), Decimal("0.104"))
PRICES = {
    "Germany, mobile": Decimal("0.0945"),
    "México, Ciudad de México": Decimal("0.01125"),
    "France </script> & Co": Decimal("0.027"),
    None: Decimal("0.0065"),
}
# Calls in each hour of a working day.
HOURS = [20, 15, 10, 10, 10, 20, 60, 120, 300, 400, 420, 400] + [
    380, 400, 400, 380, 360, 300, 200, 150, 100, 80, 50, 30,
]  # fmt: skip


def made_calls(direction, is_left_out):
    """The records of a direction, without days that are left out."""
    rng = random.Random(direction)
    hours = {}
    for of, begin, number, kind in DISRUPTIONS:
        if of == direction:
            hours |= {begin + hour * HOUR: kind for hour in range(number)}
    number = 0
    day = FIRST
    while day <= LAST:
        for hour, calls in enumerate(HOURS):
            begin = datetime.datetime(day.year, day.month, day.day, hour, tzinfo=UTC)
            kind = hours.get(begin)
            calls *= (1, 0.4)[day.weekday() > 4] * (1, 0.5)[direction == "received"]
            calls = 0 if kind == "silence" else round(calls * rng.uniform(0.9, 1.1))
            calls = min(calls, 1) if day > TO else calls
            for _ in range(calls):
                number += 1
                call = made_call(rng, direction, number, begin, kind)
                if not is_left_out(day):
                    yield call
        day += DAY


def made_call(rng, direction, number, begin, kind):
    """One record."""
    shares = {"failed": (35, 5, 5, 55), "busy": (40, 5, 50, 5), "asr": (30, 60, 5, 5)}
    names = ["answered", "noanswer", "busy", "failed"]
    disposition = rng.choices(names, shares.get(kind, (62, 20, 10, 8)))[0]
    time = begin + datetime.timedelta(milliseconds=rng.randrange(3_600_000))
    answered = disposition == "answered"
    duration = rng.randrange(1, rng.choice([60, 300, 900])) if answered else 0
    duration = max(1, duration // 8) if answered and kind == "acd" else duration
    destination = rng.choice(list(PRICES))
    price = PRICES[destination]
    if destination == RISES[0] and begin.date() >= RISES[1]:
        price = RISES[3]
    own, other = f"1302555{rng.randrange(40):04}", f"4915{rng.randrange(10**9):09}"
    record = {
        "call_id": f"{direction}-{number}",
        "date": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "disposition": disposition,
        "duration": duration,
        "destination": destination,
        "per_minute": str(price),
        "charge": str(price * -(-duration // 60)),
    }
    if direction == "placed":
        return record | {"from": own, "to": other, "sip_trunk": str(rng.choice([32000, 32081]))}
    to = rng.choice([destination, f"sip:{own}@sip.example.com", "13025559999"])
    return record | {"from": other, "to": own, "destination": to, "forward_fee": "0.0013"}


class Database:
    """DuckDB on the calls of a lake."""

    def __init__(self, lake, zone):
        self.connection = duckdb.connect()
        self.connection.execute("SET TimeZone = 'UTC'")
        self.connection.execute(
            f"""
            CREATE TABLE calls AS
            SELECT * EXCLUDE (extra), date_trunc('hour', call_time) AS hour,
              (call_time AT TIME ZONE '{zone}')::DATE AS local_day,
              CASE WHEN direction = 'placed' THEN from_number ELSE to_number END AS own_number
            FROM read_parquet('{lake}/cdrs/*/*.parquet', hive_partitioning = false)
            WHERE source_day BETWEEN '{BASELINE}' AND '{TO}'
            """
        )

    def ask(self, query):
        """The rows, as dictionaries."""
        return self.connection.sql(query).to_arrow_table().to_pylist()


OUTCOMES = """count(*) AS calls, count(*) FILTER (disposition = 'answered') AS answered,
  count(*) FILTER (disposition = 'failed') AS failed,
  count(*) FILTER (disposition = 'busy') AS busy,
  coalesce(sum(duration_seconds), 0)::BIGINT AS duration_seconds"""
SUMS = f"""{OUTCOMES}, coalesce(sum(charge_usd), 0) AS charge_usd,
  coalesce(sum(forward_fee_usd), 0) AS forward_fee_usd"""
MONEY = {
    "charge_usd", "forward_fee_usd", "charge_before_usd", "difference_usd", "volume_usd",
    "price_usd",
}  # fmt: skip
IN_PERIOD = f"source_day BETWEEN '{FROM}' AND '{TO}'"
IN_BEFORE = f"source_day BETWEEN '{BEFORE}' AND '{FROM - DAY}'"


def plain(value, name=None):
    """A value of the report or of DuckDB, in the form in which both are compared."""
    if isinstance(value, dict):
        return {key: plain(it, key) for key, it in value.items()}
    if isinstance(value, list):
        return [plain(it) for it in value]
    if name in MONEY and value is not None:
        return Decimal(value).normalize() + 0
    if isinstance(value, datetime.datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, float):
        return round(value, 9)
    return value


def assert_equal(what, found, expected):
    """Both are equal, apart from the form of numbers."""
    found, expected = plain(found), plain(expected)
    if isinstance(found, list) and isinstance(expected, list):
        for one, other in zip(found, expected):
            assert one == other, f"{what}: {one}, but DuckDB says {other}"
        assert len(found) == len(expected), f"{what}: {len(found)}, not {len(expected)}"
    assert found == expected, f"{what}: {found}, but DuckDB says {expected}"


def without(row, *names):
    return {name: value for name, value in row.items() if name not in names}


def check_sums(report, database, has_gap):
    """Totals and days."""
    for total in report["totals"]:
        of = total["direction"]
        where = f"direction = '{of}'" if of else "true"
        compared = [(total["before"], IN_BEFORE)] if report["before"] else []
        for sums, period in [(total, IN_PERIOD), *compared]:
            [expected] = database.ask(f"SELECT {SUMS} FROM calls WHERE {where} AND {period}")
            assert_equal(f"totals of {of}", without(sums, "direction", "before"), expected)
    rows = database.ask(f"SELECT source_day, direction, {SUMS} FROM calls GROUP BY ALL")
    by_day = {(row.pop("source_day"), row.pop("direction")): row for row in rows}
    peaks = {peak["day"]: peak["calls"] for peak in report["peaks"]}
    assert len(report["days"]) == 2 * DAYS
    for row in report["days"]:
        day, direction = datetime.date.fromisoformat(row["day"]), row["direction"]
        is_missing = has_gap and (direction, day) == MISSING
        assert row["state"] == ("missing" if is_missing else "closed"), row
        sums = without(row, "day", "direction", "week_before", "peak", "state")
        if is_missing:
            assert sums["calls"] == 0
        else:
            assert_equal(f"{day} {direction}", sums, by_day[day, direction])
        week_before = None if is_missing else by_day.get((day - 7 * DAY, direction))
        assert_equal(f"the week before {day}", row["week_before"], week_before)
        assert row["peak"] == peaks[row["day"]]


def check_hours(report, database, zone, has_gap):
    """Hours, and the rhythm of the week."""
    in_period = f"local_day BETWEEN '{FROM}' AND '{TO}'"
    hours = database.ask(
        f"SELECT hour AS begin, direction, {OUTCOMES} FROM calls WHERE {in_period} "
        "GROUP BY ALL ORDER BY ALL"
    )
    assert_equal("hours", report["hours"], hours)
    gap = f"AND local_day <> '{MISSING[1]}'" if has_gap else ""
    rhythm = database.ask(
        f"""
        WITH hours AS (
          SELECT unnest(range('{FROM}'::TIMESTAMPTZ - INTERVAL 1 DAY,
            '{TO}'::TIMESTAMPTZ + INTERVAL 2 DAY, INTERVAL 1 HOUR)) AS hour
        ), of_week AS (
          SELECT hour, hour AT TIME ZONE '{zone}' AS local, local::DATE AS local_day
          FROM hours WHERE {in_period} {gap}
        ), counts AS (
          SELECT hour, count(*) AS calls, count(*) FILTER (disposition = 'answered') AS answered
          FROM calls GROUP BY hour
        )
        SELECT isodow(local) AS weekday, hour(local) AS hour,
          coalesce(sum(calls), 0)::BIGINT AS calls,
          coalesce(sum(answered), 0)::BIGINT AS answered, count(*) AS hours
        FROM of_week LEFT JOIN counts USING (hour)
        GROUP BY ALL ORDER BY ALL
        """
    )
    assert_equal("rhythm", report["rhythm"], rhythm)


def check_peaks(report, database, zone):
    """The most calls at once, by a sweep over the changes of their number."""
    peaks = database.ask(
        f"""
        WITH active AS (
          SELECT date_trunc('second', call_time) AS begin, duration_seconds FROM calls
          WHERE duration_seconds > 0 AND source_day BETWEEN '{FROM - DAY}' AND '{TO}'
        ), changes AS (
          SELECT begin AS moment, 1 AS change FROM active
          UNION ALL SELECT begin + to_seconds(duration_seconds), -1 FROM active
          -- Calls in progress when a day begins.
          UNION ALL SELECT day::TIMESTAMP AT TIME ZONE '{zone}', 0
          FROM (SELECT unnest(range('{FROM}'::TIMESTAMP, '{TO + DAY}'::TIMESTAMP,
            INTERVAL 1 DAY)) AS day)
        ), by_second AS (
          SELECT moment, sum(change) AS change FROM changes GROUP BY moment
        ), running AS (
          SELECT moment, sum(change) OVER (ORDER BY moment) AS calls FROM by_second
        ), of_days AS (
          SELECT (moment AT TIME ZONE '{zone}')::DATE AS day, moment, calls FROM running
        )
        SELECT day, max(calls)::BIGINT AS calls, arg_max(moment, (calls, -epoch_us(moment))) AS at
        FROM of_days WHERE day BETWEEN '{FROM}' AND '{TO}' GROUP BY day ORDER BY day
        """
    )
    assert_equal("peaks", report["peaks"], peaks)


def check_rankings(report, database):
    """Rankings, and what changed most."""
    sums = (
        "count(*) FILTER ({0}) AS calls{1}, "
        "count(*) FILTER ({0} AND disposition = 'answered') AS answered{1}, "
        "coalesce(sum(duration_seconds) FILTER ({0}), 0)::BIGINT AS duration_seconds{1}, "
        "coalesce(sum(charge_usd) FILTER ({0}), 0) AS charge_usd{1}"
    )
    both = sums.format(IN_PERIOD, "") + ", " + sums.format(IN_BEFORE, "_before")
    changes = []
    rankings = [
        ("destinations", "destination", "destination"),
        ("trunks", "trunk", "sip_trunk"),
        ("own_numbers", "own_number", "own_number"),
    ]
    for ranking, of, column in rankings:
        rows = database.ask(
            f"SELECT {column} AS name, {both} FROM calls GROUP BY ALL "
            "ORDER BY charge_usd DESC, name NULLS LAST"
        )
        rows = [row for row in rows if row["calls"] + row["calls_before"]]
        shown = [row for row in rows if row["calls"]]
        found = report[ranking]
        assert (found["is_exact"], found["distinct"]) == (True, len(shown)), ranking
        has_before = report["before"] is not None
        rows_shown = [ranked(row, has_before) for row in shown[:50]]
        assert_equal(ranking, found["rows"], rows_shown)
        others = [row for row in rows if row not in shown[:50]]
        other = {
            name: sum((row[name] for row in others), type(value)(0))
            for name, value in rows[0].items()
            if name != "name"
        }
        assert_equal(f"other {ranking}", found["other"], ranked(other, has_before))
        changes += [changed(of, row) for row in rows if has_before]
    changes = [change for change in changes if change["difference_usd"]]
    changes.sort(key=lambda it: -abs(it["difference_usd"]))
    found = [without(change, "text") for change in report["changes"]]
    assert_equal("changes", found, changes[:20])


def ranked(row, has_before):
    """A row of a ranking."""

    def price(charge, seconds):
        return float(charge) / (seconds / 60) if seconds else None

    def part(end):
        names = ["calls", "answered", "duration_seconds", "charge_usd"]
        sums = {name: row[name + end] for name in names}
        return sums | {"usd_per_minute": price(sums["charge_usd"], sums["duration_seconds"])}

    name = {"name": row["name"]} if "name" in row else {}
    return name | part("") | {"before": part("_before") if has_before else None}


def changed(of, row):
    """A change of charges: by volume, and by price."""
    now, before = row["charge_usd"], row["charge_usd_before"]
    more = row["duration_seconds"] - row["duration_seconds_before"]
    volume = now - before
    if row["duration_seconds_before"]:
        nanos = int(before * 10**9) * more
        whole = abs(nanos) // row["duration_seconds_before"]
        volume = Decimal(whole if nanos >= 0 else -whole) / 10**9
    return {
        "of": of,
        "name": row["name"],
        "charge_usd": now,
        "charge_before_usd": before,
        "difference_usd": now - before,
        "volume_usd": volume,
        "price_usd": now - before - volume,
    }


def check_prices(report, database):
    """Changes of prices, by the price of most calls of each day."""
    prices = database.ask(
        f"""
        WITH counts AS (
          SELECT destination, source_day, per_minute_usd, count(*) AS number,
            sum(count(*)) OVER (PARTITION BY destination, source_day) AS all_calls
          FROM calls
          WHERE direction = 'placed' AND per_minute_usd IS NOT NULL AND destination IS NOT NULL
            AND source_day >= '{BEFORE}'
          GROUP BY destination, source_day, per_minute_usd
        ), courses AS (
          SELECT *,
            lag(per_minute_usd) OVER (PARTITION BY destination ORDER BY source_day) AS earlier
          FROM counts WHERE 2 * number > all_calls
        )
        SELECT destination, max(source_day) AS day,
          arg_max(earlier, source_day) AS before, arg_max(per_minute_usd, source_day) AS after
        FROM courses WHERE earlier <> per_minute_usd AND source_day >= '{FROM}'
        GROUP BY destination ORDER BY day, destination
        """
    )
    found = report["prices"]
    assert [(row["destination"], row["day"]) for row in found] == [
        (row["destination"], row["day"].isoformat()) for row in prices
    ]
    for row, expected in zip(found, prices):
        assert Decimal(row["usd_per_minute_before"]) == expected["before"], row
        assert Decimal(row["usd_per_minute"]) == expected["after"], row
    [only] = found
    assert only["destination"] == RISES[0], only
    assert Decimal(only["usd_per_minute"]) == RISES[3], only


def check_disruptions(report, database, zone, has_gap):
    """Exactly the made disruptions, with what is usual by DuckDB's median and mad."""
    found = report["disruptions"]["list"]
    made = [(plain(begin), hours, of, kind) for of, begin, hours, kind in DISRUPTIONS]
    listed = [(row["begin"], row["hours"], row["direction"], row["kind"]) for row in found]
    assert listed == sorted(made), found
    values = {
        "failed": "failed / calls",
        "busy": "busy / calls",
        "asr": "answered / calls",
        "acd": "duration_seconds / answered",
        "silence": "calls",
    }
    tz = zoneinfo.ZoneInfo(zone)
    for row in found:
        begin = datetime.datetime.fromisoformat(row["begin"])
        value, silence = values[row["kind"]], row["kind"] == "silence"
        expected, weights, spreads = Decimal(0), 0, []
        part = whole = 0
        for hour in (begin + number * HOUR for number in range(row["hours"])):
            local = hour.astimezone(tz).replace(tzinfo=None)
            weeks = [(local - 7 * week * DAY).replace(tzinfo=tz) for week in range(1, 9)]
            weeks = [week.astimezone(UTC) for week in weeks]
            weeks = [week for week in weeks if not was_disrupted(row["direction"], week)]
            if has_gap:
                weeks = [week for week in weeks if (row["direction"], week.date()) != MISSING]
            instants = ", ".join(f"('{plain(week)}'::TIMESTAMPTZ)" for week in weeks)
            of = f"calls.direction = '{row['direction']}'"
            [usual] = database.ask(
                f"""
                WITH hours AS (
                  SELECT week, count(call_time) AS calls,
                    count(*) FILTER (disposition = 'answered') AS answered,
                    count(*) FILTER (disposition = 'failed') AS failed,
                    count(*) FILTER (disposition = 'busy') AS busy,
                    sum(duration_seconds) AS duration_seconds
                  FROM (VALUES {instants}) AS weeks (week)
                  LEFT JOIN calls ON hour = week AND {of} GROUP BY week
                )
                SELECT median({value}) AS usual, 1.4826 * mad({value}) AS spread FROM hours
                """
            )
            [sums] = database.ask(
                f"SELECT {OUTCOMES} FROM calls WHERE {of} AND hour = '{plain(hour)}'"
            )
            assert row["compared"] == len(weeks), row
            weight = sums["answered"] if row["kind"] == "acd" else sums["calls"]
            parts = {"acd": "duration_seconds", "asr": "answered", "silence": "calls"}
            part += sums[parts.get(row["kind"], row["kind"])]
            whole += weight
            expected += Decimal(usual["usual"]) * (1 if silence else weight)
            weights += 1 if silence else weight
            spreads.append(usual["spread"])
        expected = float(expected) if silence else float(expected) / weights
        assert_equal("value", row["value"], float(part) if silence else part / whole)
        assert_equal("usual", row["usual"], expected)
        assert_equal("spread", row["spread"], max(spreads))
        assert row["basis"] == "weeks", row


def was_disrupted(direction, hour):
    return any(
        of == direction and begin <= hour < begin + hours * HOUR
        for of, begin, hours, _ in DISRUPTIONS
    )


class Page(html.parser.HTMLParser):
    """Finds the data in a page."""

    def __init__(self):
        super().__init__()
        self.is_data, self.data = False, ""

    def handle_starttag(self, tag, attributes):
        self.is_data = tag == "script" and ("id", "report") in attributes

    def handle_data(self, data):
        self.data += data if self.is_data else ""

    def handle_endtag(self, tag):
        self.is_data = False


def check(cdrlake, root, zone, unit):
    """Loads a lake and checks its report."""
    lake, has_gap = root / f"{unit}s", unit == "day"
    keys = {"CDRLAKE_WINDOW_SLICE": unit, "CDRLAKE_WINDOW_TIMEZONE": zone}
    environment = {"PATH": os.environ["PATH"], "CDRLAKE_LOG": "error", **keys}
    # No pipeline.toml of the current directory.
    run = {"cwd": root, "check": True, "env": environment}
    for direction in ["placed", "received"]:
        export = root / f"{direction}.ndjson"
        left_out = lambda day: has_gap and (direction, day) == MISSING  # noqa: B023, E731
        with export.open("w") as file:
            for call in made_calls(direction, left_out):
                file.write(json.dumps(call, ensure_ascii=False) + "\n")
        load = [cdrlake, "load", export, "--direction", direction, "--lake", lake]
        subprocess.run([*load, "--reconcile", "off"], stdout=subprocess.DEVNULL, **run)
    days = ["--from", str(FROM), "--to", str(TO), "--lake", lake]
    command = [cdrlake, "report", *days]
    shown = [*command, "--format", "json", "--show-numbers"]
    report = json.loads(subprocess.run(shown, stdout=subprocess.PIPE, **run).stdout)
    database = Database(lake, zone)
    assert (report["timezone"], report["slice"]) == (zone, unit)
    # Days are compared only if the lake has all of both periods.
    before = None if has_gap else {"from": str(BEFORE), "to": str(FROM - DAY)}
    assert report["before"] == before
    check_sums(report, database, has_gap)
    check_hours(report, database, zone, has_gap)
    check_peaks(report, database, zone)
    check_rankings(report, database)
    check_prices(report, database)
    check_disruptions(report, database, zone, has_gap)
    findings = [(it["kind"], it["direction"], it["day"]) for it in report["trust"]["findings"]]
    expected = [("missing", MISSING[0], str(MISSING[1]))] if has_gap else []
    assert findings == expected, report["trust"]["findings"]
    # The page has the same data, and no whole number of the account.
    page = root / f"{unit}.html"
    subprocess.run([*command, "--output", page], stdout=subprocess.DEVNULL, **run)
    assert page.stat().st_mode & 0o777 == 0o600
    text, parser = page.read_text(), Page()
    assert "13025550" not in text and "13025559999" not in text
    parser.feed(text)
    data = json.loads(parser.data)
    same = set(report) - {"made_at", "numbers", "own_numbers", "destinations", "changes", "pass"}
    assert {name: data[name] for name in same} == {name: report[name] for name in same}
    assert data["numbers"] == "hidden"
    own, whole = (it["own_numbers"]["rows"] for it in (data, report))
    digits = len(str(report["own_numbers"]["distinct"]))
    for rank, (hidden, row) in enumerate(zip(own, whole, strict=True), start=1):
        name = row["name"] and f"{row['name'][:-4]}… #{rank:0{digits}}"
        assert hidden == {**row, "name": name}, (hidden, row)
    rows = report["pass"]["rows"]
    print(f"{unit}s in {zone}: {rows} rows, {len(report['hours'])} hours, as DuckDB has them")


def main(cdrlake):
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory)
        check(cdrlake, root, "UTC", "day")
        check(cdrlake, root, "Europe/Berlin", "month")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve())
