"""Processor time of a record on Spark's path, against `cdrlake run`: overhead.py

Both read the same calls from a simulated API on one core. What a short job and a long one need in
addition, divided by the additional records, leaves out what starting costs. The API's own time is
not counted.
"""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from scaling import environment

import cdrlake

CALLS_PER_DAY = 100_000
#: Days of the short job, and of the long one.
DAYS = (10, 60)


def processor_seconds(process: int) -> float:
    """Those of a process and of all its descendants, ended ones included."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    # utime, stime, cutime, cstime: proc(5).
    ticks = sum(map(int, fields[11:15]))
    seconds = ticks / os.sysconf("SC_CLK_TCK")
    tasks = Path(f"/proc/{process}/task").iterdir()
    children = (task.joinpath("children").read_text().split() for task in tasks)
    return seconds + sum(processor_seconds(int(child)) for of in children for child in of)


def by_spark(days: int, url: str) -> None:
    """Prints the processor seconds of a job."""
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    session = spark.getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    reader = session.read.format("cdrlake").options(
        **{"source.url": url, "source.api_key.env": "WAVIX_API_KEY", "source.requests": "1"}
    )
    # It reads every column, and writes nothing.
    reader.option("last", str(days)).load().write.format("noop").mode("overwrite").save()
    print(processor_seconds(os.getpid()))


def by_run(days: int, url: str) -> tuple[int, float]:
    """The rows and the processor seconds of a run."""
    with tempfile.TemporaryDirectory() as directory:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        report = cdrlake.run(
            last=days,
            lake=f"{directory}/lake",
            options={
                "source.url": url,
                "source.api_key.env": "WAVIX_API_KEY",
                "source.requests": 1,
            },
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return report.totals.rows, seconds


def main() -> None:
    """Prints a table."""
    with cdrlake.simulate(calls_per_day=CALLS_PER_DAY) as api:
        env = environment(api)
        os.environ.update(api.env)
        runs, jobs = [by_run(days, api.url) for days in DAYS], []
        for days in DAYS:
            command = [sys.executable, __file__, "--spark", str(days), api.url]
            done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
            jobs.append(float(done.stdout))
    rows = runs[1][0] - runs[0][0]
    for name, seconds in [("run", [seconds for _, seconds in runs]), ("Spark", jobs)]:
        slope = (seconds[1] - seconds[0]) / rows
        took = ", ".join(f"{each:.1f} s" for each in seconds)
        print(f"{name:6} {slope * 1e6:.2f} µs a record more ({took} for {DAYS} days)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--spark"]:
        by_spark(int(sys.argv[2]), sys.argv[3])
    else:
        main()
