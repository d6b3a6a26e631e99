"""The same web API in different ways, for uvicorn; the database's path stands in the variable BENCH_DATABASE."""
