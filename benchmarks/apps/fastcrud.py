# As FastCRUD's quick start says, without an audit trail.
import os
from collections.abc import AsyncIterator
from datetime import datetime

from fastapi import FastAPI
from fastcrud import crud_router
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from benchmarks.model import NewUser, User

engine = create_async_engine(f"sqlite+aiosqlite:///{os.environ['BENCH_DATABASE']}")
make_session = async_sessionmaker(engine, expire_on_commit=False)


class UpdateUser(BaseModel):
    name: str | None = None
    email: str | None = None
    quantity: int | None = None
    price: float | None = None
    active: bool | None = None
    created_at: datetime | None = None
    notes: str | None = None


async def open_session() -> AsyncIterator[AsyncSession]:
    async with make_session() as session:
        yield session


app = FastAPI()
app.include_router(
    crud_router(session=open_session, model=User, create_schema=NewUser, update_schema=UpdateUser, path="/users")
)
