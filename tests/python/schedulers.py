"""Executes the examples of docs/scheduling.md for Airflow and Dagster, against the simulated API.

Usage: schedulers.py airflow|dagster

It runs in an environment with the installed wheel and the scheduler. The only change to an example
is where it looks for the configuration.
"""

import datetime
import os
import pathlib
import re
import sys
import tempfile

import cdrlake

PAGE = pathlib.Path(__file__).resolve().parent.parent.parent / "docs" / "scheduling.md"
YESTERDAY = datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=1)
START = YESTERDAY - datetime.timedelta(days=2)


def example(name):
    """The Python block of the chapter of this name."""
    chapter = PAGE.read_text().split(f"\n## {name}\n")[1].split("\n## ")[0]
    return re.search(r"```python\n(.*?)```", chapter, re.DOTALL)[1]


def run(name, execute):
    """Has `execute` do the example twice: the lake has every slice, and then the same rows.

    `execute` also gets whether the days change.
    """
    with tempfile.TemporaryDirectory() as directory, cdrlake.simulate(calls_per_day=300) as api:
        directory = pathlib.Path(directory)
        lake, config = str(directory / "lake"), directory / "pipeline.toml"
        config.write_text(
            f'source.url = "{api.url}"\nsource.api_key.env = "WAVIX_API_KEY"\n'
            f'window.start = {START}\nlake.url = "{lake}"\n'
        )
        os.environ["WAVIX_API_KEY"] = api.key
        module = directory / "example.py"
        module.write_text(example(name).replace("/etc/cdrlake/pipeline.toml", str(config)))
        execute(directory, module, changed=True)
        found = cdrlake.verify(config=str(config))
        days = (YESTERDAY - START).days + 1
        assert (found.slices, found.not_fetched) == (2 * days, ()), found
        assert found.rows > 0, found
        execute(directory, module, changed=False)
        again = cdrlake.verify(config=str(config))
        assert (again.slices, again.rows) == (found.slices, found.rows), again
        print(f"{name}: {found.slices} slices, {found.rows} rows, verified")


def airflow(directory, module, changed):
    os.environ["AIRFLOW_HOME"] = str(directory / "airflow")
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
    os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(directory)
    import runpy
    import subprocess

    subprocess.run(["airflow", "db", "migrate"], check=True, stdout=subprocess.DEVNULL)
    dag = runpy.run_path(str(module))["cdrlake_calls"]()
    done = dag.test()
    assert str(done.state) == "success", done.state


def dagster(directory, module, changed):
    import runpy

    import dagster

    calls = runpy.run_path(str(module))["calls"]
    for back in range((YESTERDAY - START).days + 1):
        day = START + datetime.timedelta(days=back)
        done = dagster.materialize([calls], partition_key=str(day))
        assert done.success
        (event,) = done.asset_materializations_for_node("calls")
        assert event.metadata["changed"].value == ([str(day)] if changed else []), event
        assert event.metadata["rows"].value > 0


if __name__ == "__main__":
    (scheduler,) = sys.argv[1:]
    run(scheduler.capitalize(), {"airflow": airflow, "dagster": dagster}[scheduler])
