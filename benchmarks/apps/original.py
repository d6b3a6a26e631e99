import os

from fastapi import FastAPI
from storage.accessor import ModelAccessor
from storage.bootstrap import bootstrap

from benchmarks.model import User

app = FastAPI()
limit = os.environ.get("BENCH_MAX_RECORDS")
bootstrap(
    app,
    accessors=[ModelAccessor(User, "users")],
    database_url=f"sqlite:///{os.environ['BENCH_DATABASE']}",
    max_records_per_model=int(limit) if limit else None,
)
