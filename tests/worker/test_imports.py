"""What makes calls knows the record over HTTP alone: it is installed where there is neither database nor API."""

import subprocess
import sys

FOR_THE_RECORD = "alembic aiosqlite asyncpg dbos fastapi obstore psycopg psycopg_pool sqlalchemy"
"""What only the record's side needs."""

MODULES = "runner.cli.worker runner.worker.child runner.worker.process runner.worker.health runner.worker.parent"

CODE = f"""
import importlib, sys
refused = set({FOR_THE_RECORD.split()})
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ImportError(f"a worker has no {{name}}")
sys.meta_path.insert(0, Refuse())
for name in {MODULES.split()}:
    importlib.import_module(name)
"""


def test_it_needs_no_database_and_no_api() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
