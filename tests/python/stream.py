"""Reads `cdrlake stream` with pyarrow, Polars and DuckDB: whole, failing, and killed.

Usage: stream.py path/to/cdrlake [path/to/nu]

Runs the examples of docs/streaming.md, against days that pass and against a day that fails behind
one with a million calls. No reader may take a part for the whole.
"""

import http.server
import io
import json
import os
import pathlib
import pty
import random
import re
import subprocess
import sys
import tempfile
import threading
import urllib.parse

import polars
import pyarrow
import pyarrow.ipc

PAGE = pathlib.Path(__file__).resolve().parent.parent.parent / "docs/streaming.md"
MANY = 1_000_000
KILLS = 20


class Api(http.server.BaseHTTPRequestHandler):
    """Has as many calls of a day and direction as its counts say, except for wrong ones."""

    protocol_version = "HTTP/1.1"
    calls = 1_000
    # The direction whose counts are wrong.
    wrong = None

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        if url.path.endswith("/all"):
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for first in range(0, self.calls, 10_000):
                self.send(self.lines(query["from"], first))
            self.wfile.write(b"0\r\n\r\n")
            return
        total = self.calls + (query["type"] == self.wrong)
        body = json.dumps({"items": [], "pagination": {"total": total}}).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send(self, chunk):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))

    def lines(self, day, first):
        line = (
            '{"date":"%sT10:00:00.%03dZ","from":"1302555%04d","to":"33170363950",'
            '"disposition":"answered","duration":%d,"destination":"France","per_minute":"0.027",'
            '"charge":"0.%03d","call_id":"call-%d"}\n'
        )
        calls = range(first, min(first + 10_000, self.calls))
        lines = (line % (day, n % 1_000, n % 10_000, n % 600, n % 1_000, n) for n in calls)
        return "".join(lines).encode()

    def log_message(self, *_):
        pass


def examples(info):
    blocks = re.findall(rf"^```{info}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert blocks, info
    return blocks


def run_example(code, environment, directory):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def begin(binary, environment, directory, *more):
    command = [binary, "stream", "--last", "1", *more]
    return subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def is_refused(read, stream):
    """Whether a reader reports that a stream is not whole."""
    try:
        read(io.BytesIO(stream))
    except (pyarrow.ArrowInvalid, OSError, polars.exceptions.PolarsError):
        return True
    return False


READERS = [lambda file: pyarrow.ipc.open_stream(file).read_all(), polars.read_ipc_stream]


def check_kills(binary, environment, directory):
    """Kills the program at random moments while its output is read."""
    refused = 0
    for _ in range(KILLS):
        with begin(binary, environment, directory) as process:
            stream = process.stdout.read(random.randrange(1, 20_000_000))
            process.kill()
            stream += process.stdout.read()
        if process.returncode == 0:
            continue
        refused += 1
        assert all(is_refused(read, stream) for read in READERS), len(stream)
    assert refused > 0
    return refused


def check_terminal(binary, environment, directory):
    terminal, its_end = pty.openpty()
    command = [binary, "stream", "--last", "1"]
    done = subprocess.run(
        command, cwd=directory, env=environment, stdout=its_end, stderr=subprocess.PIPE, text=True
    )
    os.close(its_end)
    os.close(terminal)
    assert done.returncode == 2 and "not for a terminal" in done.stderr, done


def main(binary, nu=None):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
    # Killed programs reset their connections.
    server.handle_error = lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as directory:
        programs = pathlib.Path(directory) / "bin"
        programs.mkdir()
        (programs / "cdrlake").symlink_to(binary)
        environment = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "CDRLAKE_SOURCE_URL": f"http://127.0.0.1:{server.server_port}",
            "CDRLAKE_SOURCE_API_KEY_ENV": "KEY",
            "CDRLAKE_SOURCE_RETRY_BASE": "1ms",
            "KEY": "demo",
        }
        for code in examples("python"):
            done = run_example(code, environment, directory)
            assert done.returncode == 0, done
            print(done.stdout.strip())
        if nu:
            for line in examples("nu"):
                done = subprocess.run(
                    [nu, "-c", line], cwd=directory, env=environment, capture_output=True, text=True
                )
                assert done.returncode == 0 and "answered" in done.stdout, done
        check_terminal(binary, environment, directory)

        Api.calls, Api.wrong = 60_000, "received"
        for code in examples("python"):
            if '"placed"' in code:
                code = code.replace(', "--direction", "placed"', "")
            done = run_example(code, environment, directory)
            assert done.returncode != 0, done
            print(done.stderr.strip().splitlines()[-1])
        Api.calls = MANY
        with begin(binary, environment, directory) as process:
            stream, errors = process.communicate()
        assert process.returncode == 1 and b"the provider counts 1,000,001" in errors, errors
        assert all(is_refused(read, stream) for read in READERS)
        print(f"a day failed behind {MANY:,} calls: readers notice")

        Api.calls, Api.wrong = 100_000, None
        kills = check_kills(binary, environment, directory)
        print(f"{kills} killed streams: readers notice")


if __name__ == "__main__":
    main(*(pathlib.Path(program).resolve() for program in sys.argv[1:]))
