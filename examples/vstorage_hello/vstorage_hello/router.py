"""A route of the plugin's own."""

from fastapi import APIRouter

from vstorage_core import Storage


def build_hello_router(storage: Storage) -> APIRouter:
    """`GET /hello` names the components of the machine."""
    router = APIRouter(tags=["hello"])

    @router.get("/hello", operation_id="greet")
    def hello() -> dict[str, list[str]]:
        """Greet the components."""
        return {"hello": [accessor.component for accessor in storage.accessors]}

    return router
