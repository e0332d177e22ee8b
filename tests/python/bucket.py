"""Reads a lake in a bucket with other engines: bucket.py target/release/cdrlake host:port

Fills a lake in the S3 server from the simulated API and reads it with pyarrow and Polars. Rows and
sums must equal those of the ledger.
"""

import decimal
import json
import os
import subprocess
import sys
import urllib.request

import polars
import pyarrow.compute
import pyarrow.dataset
import pyarrow.fs

program, server = os.path.abspath(sys.argv[1]), sys.argv[2]
endpoint, bucket = f"http://{server}", f"readers-{os.getpid()}"
key, secret = "AKIDTEST", "SECRETTEST"

request = urllib.request.Request(f"{endpoint}/{bucket}", method="PUT")
request.add_header(
    "Authorization",
    "AWS4-HMAC-SHA256 Credential=A/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=x",
)
urllib.request.urlopen(request)

simulator = subprocess.Popen(
    [program, "simulate", "--port", "0", "--calls-per-day", "500"],
    stdout=subprocess.PIPE,
    text=True,
)
try:
    url = next(
        word for line in simulator.stdout for word in line.split() if word.startswith("http://")
    )
    environment = os.environ | {
        "WAVIX_API_KEY": "demo",
        "CDRLAKE_SOURCE_API_KEY_ENV": "WAVIX_API_KEY",
        "CDRLAKE_SOURCE_URL": url.rstrip("."),
        "CDRLAKE_LAKE_URL": f"s3://{bucket}/a/lake",
        "CDRLAKE_LAKE_OPTIONS_ENDPOINT": endpoint,
        "CDRLAKE_LAKE_OPTIONS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
    }
    run = subprocess.run(
        [program, "run", "--last", "4", "--format", "json"],
        env=environment,
        cwd="/",
        check=True,
        stdout=subprocess.PIPE,
    )
finally:
    simulator.kill()
totals = json.loads(run.stdout)["totals"]
expected = (totals["rows"], decimal.Decimal(totals["charge_usd"]))
assert expected[0] > 1000, expected

s3 = pyarrow.fs.S3FileSystem(
    endpoint_override=server, scheme="http", access_key=key, secret_key=secret, region="us-east-1"
)
table = pyarrow.dataset.dataset(
    f"{bucket}/a/lake/cdrs", filesystem=s3, partitioning="hive"
).to_table()
assert (table.num_rows, pyarrow.compute.sum(table["charge_usd"]).as_py()) == expected, "pyarrow"
assert len(set(table["dt"].to_pylist())) == 4

options = {
    "aws_endpoint_url": endpoint,
    "aws_access_key_id": key,
    "aws_secret_access_key": secret,
    "aws_region": "us-east-1",
    "aws_allow_http": "true",
}
frame = polars.read_parquet(
    f"s3://{bucket}/a/lake/cdrs/", storage_options=options, hive_partitioning=True
)
assert (frame.height, frame["charge_usd"].sum()) == expected, "Polars"
print(
    f"pyarrow and Polars read {expected[0]} calls and {expected[1]} USD from the bucket, "
    "like the ledger"
)
