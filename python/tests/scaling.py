"""How Spark's cores shorten a job that waits for the API: scaling.py [master …]

The API serves each connection at a fixed rate. Each master reads the same slices, as many at once
as it has cores, and is compared with the first one.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from proxy import proxy

import cdrlake

MASTERS = ["local[1]", "local[2]", "local[4]"]
DAYS = 48
#: Bytes a second of one connection.
RATE = 50_000


def measure(master: str, url: str) -> None:
    """Prints the seconds that a master needs, after one slice to warm up."""
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.master(master).config("spark.ui.enabled", "false").getOrCreate()
    spark.sparkContext.setLogLevel("OFF")
    cores = spark.sparkContext.defaultParallelism
    reader = spark.read.format("cdrlake").options(
        **{"source.url": url, "source.api_key.env": "WAVIX_API_KEY", "source.requests": str(cores)}
    )
    reader.option("last", "1").option("direction", "placed").load().count()
    begin = time.monotonic()
    rows = reader.option("last", str(DAYS)).option("direction", "placed").load().count()
    print(cores, rows, time.monotonic() - begin)


def environment(api: cdrlake.Simulator) -> dict[str, str]:
    """The variables of a driver on this machine that fetches from `api`."""
    import pyspark

    return {
        **os.environ,
        **api.env,
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_HOME": str(Path(pyspark.__file__).parent),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }


def main(masters: list[str]) -> None:
    """Prints a table."""
    with cdrlake.simulate(calls_per_day=400) as api, proxy(api) as server:
        server.rate = RATE
        first = None
        for master in masters:
            command = [sys.executable, __file__, "--measure", master, server.simulator.url]
            done = subprocess.run(
                command, env=environment(api), stdout=subprocess.PIPE, text=True, check=True
            )
            cores, rows, seconds = done.stdout.split()
            first = first or float(seconds)
            times = first / float(seconds)
            print(
                f"{master:24} {cores} cores {rows} rows {float(seconds):6.1f} s  {times:.2f} x",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:])
    else:
        main(sys.argv[1:] or MASTERS)
