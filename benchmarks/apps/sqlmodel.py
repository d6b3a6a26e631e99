# The way of SQLModel's tutorial, with an audit row per write.
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException
from sqlmodel import Session, func, select

from benchmarks.contenders.sqlmodel import Contender, entry
from benchmarks.model import NewUser, User

limit = int(os.environ.get("BENCH_MAX_RECORDS") or 0)
database = Contender(Path(os.environ["BENCH_DATABASE"]))
database.create_tables()
app = FastAPI()


def open_session() -> Iterator[Session]:
    with database.session() as session:
        yield session


InSession = Annotated[Session, Depends(open_session)]
Actor = Annotated[str, Header(alias="X-User")]


@app.get("/users/")
def list_users(session: InSession) -> list[User]:
    return list(session.exec(select(User).where(User.deleted_at.is_(None))))


@app.get("/users/{key}")
def get_user(key: int, session: InSession) -> User:
    user = session.get(User, key)
    if user is None or user.deleted_at is not None:
        raise HTTPException(404)
    return user


@app.post("/users/", status_code=201)
def create_user(sent: NewUser, session: InSession, actor: Actor) -> User:
    if limit and session.exec(select(func.count()).select_from(User)).one() >= limit:
        raise HTTPException(409)
    user = User(**sent.model_dump())
    session.add(user)
    session.flush()
    session.add(entry("create", actor, None, user))
    session.commit()
    return user


@app.put("/users/{key}")
def put_user(key: int, sent: NewUser, session: InSession, actor: Actor) -> User:
    user = session.get(User, key)
    if user is None:
        raise HTTPException(404)
    before = user.model_dump(mode="json")
    for name, value in sent.model_dump(exclude_unset=True).items():
        setattr(user, name, value)
    session.add(entry("update", actor, before, user))
    session.commit()
    return user
