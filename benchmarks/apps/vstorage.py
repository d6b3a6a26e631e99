import os

from fastapi import FastAPI

from benchmarks.model import User
from vstorage_core import ModelAccessor, bootstrap

app = FastAPI()
limit = os.environ.get("BENCH_MAX_RECORDS")
bootstrap(
    app,
    accessors=[ModelAccessor(User, "users")],
    database_url=f"sqlite:///{os.environ['BENCH_DATABASE']}",
    max_records_per_model=int(limit) if limit else None,
)
