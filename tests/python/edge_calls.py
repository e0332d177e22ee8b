"""Calls with edge values, a server that answers with them, and the rows that a lake has of them."""

import calendar
import contextlib
import datetime
import http.server
import json
import threading
import urllib.parse
from decimal import Decimal

UTC = datetime.timezone.utc
FIRST, SECOND, EMPTY = "2026-10-01", "2026-10-02", "2026-10-03"
# The earliest day that cdrlake accepts.
OLD = "2000-01-01"

# Records with edge values.
CALLS = [
    (
        FIRST,
        "placed",
        {
            "uuid": "plain",
            "date": "2026-10-01T00:00:00.000Z",
            "from": "13524815863",
            "to": "12565378257",
            "duration": 26,
            "charge": "0.0059",
            "per_minute": "0.0059",
            "forward_fee": "0.0",
            "destination": "My trunk",
            "disposition": "answered",
        },
    ),
    (
        FIRST,
        "placed",
        {  # every text empty, an amount with nine decimals, a fee below zero
            "uuid": "",
            "parent_uuid": "",
            "date": "2026-10-01T23:59:59.999999Z",
            "from": "",
            "to": "",
            "duration": 0,
            "charge": "0.123456789",
            "per_minute": "0.000000001",
            "forward_fee": "-0.000000001",
            "destination": "",
            "disposition": "",
            "sip_trunk": "",
            "answered_by": "",
        },
    ),
    (
        FIRST,
        "placed",
        {  # nothing but what must be there
            "uuid": "null",
            "date": "2026-10-01T12:00:00Z",
            "from": None,
            "to": None,
            "duration": None,
            "charge": None,
            "destination": None,
            "disposition": None,
            "sip_trunk": None,
            "answered_by": None,
        },
    ),
    (
        FIRST,
        "received",
        {  # the largest amounts
            "uuid": "large",
            "date": "2026-10-01T12:00:00.5Z",
            "from": "1",
            "to": "2",
            "duration": 2147483647,
            "charge": "999999999.999999999",
            "per_minute": "-999999999.999999999",
            "forward_fee": "1",
            "destination": "x" * 5000,
            "disposition": "answered",
        },
    ),
    (
        FIRST,
        "received",
        {  # other scripts, what SQL and JSON quote, a character beyond the first 65,536
            "uuid": "naïve-Ω-電話-🕿",
            "date": "2026-10-01T12:00:01Z",
            "from": "+٤٩١٧٠١٢٣٤٥٦",
            "to": "sip:jürgen@example.com",
            "duration": 1,
            "charge": "1e-9",
            "destination": 'it\'s "quoted" \\ and\ttabbed\nand broken',
            "disposition": "busy",
            "z": {"ключ": ["值", None, 1.50, True]},
            "a": "🕿",
        },
    ),
    (
        FIRST,
        "received",
        {
            "uuid": "before-1970",
            "date": "1969-12-31T23:59:59.000001Z",
            "from": "1",
            "to": "2",
            "duration": 1,
            "charge": "1",
        },
    ),
    (
        FIRST,
        "received",
        {
            "uuid": "after-2100",
            "date": "2100-02-28T23:59:59.999999Z",
            "from": "1",
            "to": "2",
            "duration": 1,
            "charge": "2",
        },
    ),
    (
        SECOND,
        "placed",
        {
            "uuid": "one",
            "date": "2026-10-02T01:02:03.004005Z",
            "from": "1",
            "to": "2",
            "duration": 3,
            "charge": "-1.5",
        },
    ),
    (
        SECOND,
        "placed",
        {
            "uuid": "before-1970",
            "date": "1969-12-31T00:00:00Z",
            "from": "1",
            "to": "2",
            "duration": 4,
            "charge": "0.1",
        },
    ),
    (
        OLD,
        "received",
        {
            "uuid": "old",
            "date": "2000-01-01T00:00:00Z",
            "from": "1",
            "to": "2",
            "duration": 4,
            "charge": "0.1",
        },
    ),
]

TEXTS = (
    "call_id parent_call_id direction from_number to_number disposition destination sip_trunk "
    "answered_by extra"
).split()
AMOUNTS = ["per_minute_usd", "charge_usd", "forward_fee_usd"]
COLUMNS = [
    "call_id",
    "parent_call_id",
    "direction",
    "source_day",
    "call_time",
    "from_number",
    "to_number",
    "disposition",
    "destination",
    "sip_trunk",
    "answered_by",
    "duration_seconds",
    "per_minute_usd",
    "charge_usd",
    "forward_fee_usd",
    "extra",
]


def row_of(day, direction, record):
    """The expected row of a record, computed without cdrlake."""
    amount = lambda name: (
        None if record.get(name) is None else Decimal(record[name]).quantize(Decimal("1e-9"))
    )
    known = (
        "uuid parent_uuid date from to duration charge per_minute forward_fee destination "
        "disposition sip_trunk answered_by"
    )
    extra = {name: record[name] for name in sorted(record) if name not in known.split()}
    text = (
        json.dumps(extra, ensure_ascii=False, separators=(",", ":")).replace("1.5,", "1.50,")
        if extra
        else None
    )
    return (
        record["uuid"],
        record.get("parent_uuid"),
        direction,
        datetime.date.fromisoformat(day),
        datetime.datetime.fromisoformat(record["date"]),
        record["from"],
        record["to"],
        record.get("disposition"),
        record.get("destination"),
        record.get("sip_trunk"),
        record.get("answered_by"),
        record["duration"],
        amount("per_minute"),
        amount("charge"),
        amount("forward_fee"),
        text,
    )


def with_days_of_months(calls):
    """The calls of a lake of months, each with the day that its time has in its month."""
    for day, direction, record in calls:
        last = calendar.monthrange(*(int(part) for part in day.split("-")[:2]))[1]
        first, last = f"{day[:7]}-01", f"{day[:7]}-{last}"
        yield min(max(record["date"][:10], first), last), direction, record


def in_order(rows):
    return sorted(rows, key=lambda row: (row[3], row[2], row[4], row[0] or ""))


class Source(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    calls = CALLS

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        records = [
            record
            for day, direction, record in self.calls
            if query["from"] <= day <= query["to"] and direction == query["type"]
        ]
        if url.path.endswith("/all"):
            body = "".join(
                json.dumps(record, ensure_ascii=False).replace("1.5,", "1.50,") + "\n"
                for record in records
            )
        else:
            body = json.dumps(
                {
                    "items": [],
                    "pagination": {
                        "total": len(records),
                        "total_pages": 1,
                        "current_page": 1,
                        "per_page": 25,
                    },
                }
            )
        body = body.encode()
        self.send_response(200)
        self.send_header(
            "Content-Type",
            "application/x-ndjson" if url.path.endswith("/all") else "application/json",
        )
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served():
    """The address of a server with the calls of `Source`."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Source)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
