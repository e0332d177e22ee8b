"""Reads the metrics of runs with Prometheus' own parsers, and checks the alert rules of the book.

Usage: metrics.py path/to/cdrlake path/to/promtool

`prometheus_client` parses the file after a run, after one that fails, and after the first round of
`run --every`, which a signal then ends. `promtool` checks names and types, and the rules of
docs/metrics.md: that they are valid, and when they fire.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

from prometheus_client.parser import text_string_to_metric_families

PAGE = pathlib.Path(__file__).resolve().parent.parent.parent / "docs/metrics.md"
DIRECTIONS = {"placed", "received"}
OUTCOMES = {"committed", "partial", "failed", "interrupted"}


def read(file, lake, promtool):
    """The families of the file: values by the labels besides the lake."""
    text = file.read_text()
    check = [promtool, "check", "metrics"]
    checked = subprocess.run(check, input=text, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    families = {}
    for family in text_string_to_metric_families(text):
        assert family.type == "gauge" and family.documentation, family
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("lake") == str(lake), sample
            values = families.setdefault(family.name, {})
            assert tuple(labels.values()) not in values, sample
            values[tuple(labels.values())] = sample.value
    for name in families:
        assert name in PAGE.read_text() or name.endswith("_rows"), f"{name} is not in the book"
    return families


# A lake of whose placed calls the last run succeeded at 0 h, and had rejects from 2 h on. It lacks
# two days of them. Runs on the received calls go on.
SERIES = {
    'cdrlake_last_success_timestamp_seconds{lake="a",direction="placed"}': "0x1800",
    'cdrlake_last_success_timestamp_seconds{lake="a",direction="received"}': "0+60x1800",
    'cdrlake_missing_dates{lake="a",direction="placed"}': "2x1800",
    'cdrlake_missing_dates{lake="a",direction="received"}': "0x1800",
    'cdrlake_last_run_rejected_records{lake="a"}': "0x119 3x1680",
    'cdrlake_last_run_slices{lake="a",outcome="failed"}': "0x1800",
}
OF_PLACED = {"severity": "warning", "lake": "a", "direction": "placed"}
# When an alert is silent, when it fires, and with which labels and words.
ALERTS = {
    "CdrlakeNoSuccess": (
        ("26h", "27h"),
        {"severity": "critical", "lake": "a", "direction": "placed"},
        "No run on a did all placed calls for 26 hours",
    ),
    "CdrlakeMissingDays": (("5h", "7h"), OF_PLACED, "a lacks 2 days of placed calls"),
    "CdrlakeRejectsOrFailures": (
        ("1h", "3h"),
        {"severity": "warning", "lake": "a"},
        "The last run on a had rejects or failed slices: 3",
    ),
}


def check_rules(promtool, directory):
    """The alert rules of the page are valid, and fire when they should; the metrics they use."""
    rules = re.search(r"^```yaml\n(groups:.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    file = directory / "rules.yml"
    file.write_text(rules[1])
    checked = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(ALERTS)} rules found" in checked.stdout, checked.stdout
    alerts = []
    for name, ((silent, firing), labels, summary) in ALERTS.items():
        alert = {"exp_labels": labels, "exp_annotations": {"summary": summary}}
        for at, expected in [(silent, []), (firing, [alert])]:
            alerts.append({"eval_time": at, "alertname": name, "exp_alerts": expected})
    series = [{"series": series, "values": values} for series, values in SERIES.items()]
    test = {"interval": "1m", "input_series": series, "alert_rule_test": alerts}
    tests = directory / "tests.yml"
    # JSON is YAML.
    tests.write_text(json.dumps({"rule_files": [str(file)], "tests": [test]}))
    tested = subprocess.run([promtool, "test", "rules", tests], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    return set(re.findall(r"cdrlake_\w+", rules[1]))


def main(binary, promtool):
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        lake, file = directory / "lake", directory / "calls.prom"
        simulator = subprocess.Popen(
            [binary, "simulate", "--port", "0", "--calls-per-day", "100"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            url = re.search(r"http://[\d.:]+", simulator.stdout.readline())[0]
            run = [binary, "run", "--last", "3", "--lake", lake, "--metrics-file", file]
            run += ["--api-key-env", "KEY", "--source-url"]
            env = {**os.environ, "KEY": "demo", "CDRLAKE_LOG": "error"}
            quiet = {"stdout": subprocess.DEVNULL, "env": env, "cwd": directory}

            assert subprocess.run([*run, url], **quiet).returncode == 0
            first = read(file, lake, promtool)
            assert first["cdrlake_last_run_slices"]["committed",] == 6, first
            assert first["cdrlake_last_run_rows"][()] > 0, first
            assert sum(first["cdrlake_last_run_outcome"].values()) == 1, first
            assert {of for (of,) in first["cdrlake_last_run_outcome"]} == OUTCOMES, first
            for name in ["cdrlake_missing_dates", "cdrlake_last_success_timestamp_seconds"]:
                assert {of for (of,) in first[name]} == DIRECTIONS, first
            lag = time.time() - max(first["cdrlake_newest_complete_day_timestamp_seconds"].values())
            assert 0 <= lag <= 2 * 24 * 3600, lag

            # Nothing listens there, so the run fails.
            nowhere = [*run, "http://127.0.0.1:9"]
            short = {**env, "CDRLAKE_SOURCE_MAX_ATTEMPTS": "2", "CDRLAKE_SOURCE_RETRY_BASE": "1ms"}
            failed = subprocess.run(nowhere, **{**quiet, "env": short}, stderr=subprocess.DEVNULL)
            assert failed.returncode == 1, failed
            second = read(file, lake, promtool)
            assert second["cdrlake_last_run_outcome"]["failed",] == 1, second
            assert second["cdrlake_last_run_retries"]["connection",] > 0, second
            of_lake = [name for name in first if "last_run" not in name]
            assert {name: second[name] for name in of_lake} == {
                name: first[name] for name in of_lake
            }

            file.unlink()
            service = [*run, url, "--every", "1h"]
            printing = {**quiet, "stdout": subprocess.PIPE, "text": True}
            with subprocess.Popen(service, **printing) as every:
                # The last line of a round's report, before which the file is written.
                assert any("/_cdrlake/runs/" in line for line in every.stdout), "no round ended"
                third = read(file, lake, promtool)
                every.send_signal(signal.SIGTERM)
            assert every.returncode == 0
            assert third["cdrlake_last_run_slices"]["unchanged",] == 6, third
            assert third.keys() == first.keys()
        finally:
            simulator.kill()
            simulator.wait()
        unknown = check_rules(promtool, directory) - first.keys()
        assert not unknown, f"the rules use {unknown}"
    print(f"{len(first)} metrics after a run, a failed one and a round; 3 alert rules")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve(), sys.argv[2])
