"""Pages through the simulated API with the provider's own SDK.

Shows that the simulator is faithful: the SDK's typed models accept every field, and its pages hold
the same calls as the stream.

Usage: sdk.py path/to/cdrlake
"""

import datetime
import json
import subprocess
import sys
import urllib.request

import wavix
from wavix.environment import WavixEnvironment

KEY = "sdk-check"
DAY = datetime.date(2026, 10, 1)


def client_for(url):
    # Newer versions of the SDK take an environment instead of a URL.
    try:
        return wavix.Wavix(token=KEY, base_url=url)
    except TypeError:
        return wavix.Wavix(token=KEY, environment=WavixEnvironment(url))


def stream(url, direction):
    query = f"from={DAY}&to={DAY}&type={direction}&disposition=all"
    request = urllib.request.Request(
        f"{url}/v1/cdrs/all?{query}", headers={"Authorization": f"Bearer {KEY}"}
    )
    with urllib.request.urlopen(request) as response:
        return [json.loads(line) for line in response]


def check(url):
    client = client_for(url)
    for direction in ["placed", "received"]:
        expected = stream(url, direction)
        items, page = [], 1
        while True:
            answer = client.cdrs.list(
                from_=DAY, to=DAY, type=direction, disposition="all", page=page, per_page=50
            )
            assert answer.pagination.current_page == page, answer.pagination
            items.extend(answer.items)
            if page >= answer.pagination.total_pages:
                break
            page += 1
        assert answer.pagination.total == len(items) == len(expected), (
            answer.pagination,
            len(items),
            len(expected),
        )
        for item, record in zip(items, expected, strict=True):
            assert item.call_id == record["call_id"] and item.uuid_ == record["uuid"]
            assert item.date == datetime.datetime.fromisoformat(record["date"])
            assert (item.from_, item.to, item.destination) == (
                record["from"],
                record["to"],
                record["destination"],
            )
            assert (item.charge, item.per_minute, item.duration) == (
                record["charge"],
                record["per_minute"],
                record["duration"],
            )
            assert (item.sip_trunk, item.forward_fee) == (
                record.get("sip_trunk"),
                record.get("forward_fee"),
            )
            assert (item.parent_call_id, item.answered_by) == (
                record["parent_call_id"],
                record["answered_by"],
            )
        answered = client.cdrs.list(from_=DAY, to=DAY, type=direction)
        assert len(answered.items) == 25 and all(
            item.disposition == "answered" for item in answered.items
        )
        print(f"{direction}: the SDK read {len(items)} calls in {page} pages")
    try:
        wavix.Wavix(token="wrong", base_url=url).cdrs.list(from_=DAY, to=DAY, type="placed")
    except wavix.UnauthorizedError as error:
        print(f"a wrong key: {error.status_code}")
    else:
        raise AssertionError("a wrong key was accepted")


def main():
    command = [sys.argv[1], "simulate", "--port", "0", "--key", KEY, "--calls-per-day", "700"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as simulator:
        try:
            check(simulator.stdout.readline().strip())
        finally:
            simulator.terminate()


if __name__ == "__main__":
    main()
