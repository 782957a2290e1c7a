"""The yardstick of `cargo bench --bench serve`: the dashboard's POST and GET /jobs, written as the documentation of
FastAPI and SQLAlchemy 2 teaches: Pydantic models, typed ORM classes, an asynchronous session a request.

It keeps what labctl keeps of a job (row, spec, labels) and answers with the same JSON. It does less: no counters, no
index over parts of names, no idempotency keys, no events, no request ids.
"""

import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import JSON, BigInteger, ForeignKey, Index, event, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

engine = create_async_engine(os.environ["DATABASE_URL"])

if engine.dialect.name == "sqlite":

    @event.listens_for(engine.sync_engine, "connect")
    def set_pragmas(connection: Any, _: Any) -> None:
        """What labctl sets, too."""
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute(f"PRAGMA synchronous = {os.environ['SYNCHRONOUS']}")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()


Session = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    pass


class Job(Base):
    __tablename__ = "jobs"
    __table_args__ = (Index("jobs_owner", "owner", "id"), Index("jobs_state", "state", "id"))

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    name: Mapped[str]
    owner: Mapped[str]
    state: Mapped[str]
    reason: Mapped[str | None]
    message: Mapped[str | None]
    template: Mapped[str | None]
    labels: Mapped[dict[str, str]] = mapped_column(JSON)
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    exit_code: Mapped[int | None]
    attempts: Mapped[int] = mapped_column(default=0)
    cancelling: Mapped[bool] = mapped_column(default=False)
    log_complete: Mapped[bool] = mapped_column(default=False)
    version: Mapped[int] = mapped_column(default=1)
    spec: Mapped["JobSpec"] = relationship()
    tags: Mapped[list["JobLabel"]] = relationship()


class JobSpec(Base):
    __tablename__ = "job_specs"

    id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)


class JobLabel(Base):
    __tablename__ = "job_labels"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), primary_key=True)


class Limits(BaseModel):
    model_config = ConfigDict(extra="forbid")

    seconds: int = Field(default=3600, ge=1, le=604_800)
    memory_mib: int = Field(default=512, ge=4, le=1_048_576)
    cpu_milli: int = Field(default=1000, ge=10, le=1_024_000)
    output_mib: int = Field(default=64, ge=1, le=10_240)


class Spec(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")
    command: list[str] = Field(min_length=1, max_length=256)
    image: str | None = None
    env: dict[str, str] = {}
    labels: dict[str, str] = Field(default={}, max_length=16)
    retries: int = Field(default=0, ge=0, le=100)
    suspend: bool = False
    limits: Limits = Limits()


class JobOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    owner: str
    state: str
    reason: str | None = None
    message: str | None = None
    template: str | None = None
    labels: dict[str, str]
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int | None = None
    attempts: int
    cancelling: bool
    log_complete: bool
    version: int


class Page(BaseModel):
    jobs: list[JobOut]
    next: str | None


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


async def get_session() -> AsyncIterator[AsyncSession]:
    async with Session() as session:
        yield session


SessionDep = Annotated[AsyncSession, Depends(get_session)]


@app.get("/jobs", response_model_exclude_none=True)
async def list_jobs(
    session: SessionDep,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: int | None = None,
    state: Annotated[list[str] | None, Query()] = None,
    owner: str | None = None,
    label: Annotated[list[str] | None, Query()] = None,
    q: Annotated[str | None, Query(max_length=200)] = None,
) -> Page:
    query = select(Job).order_by(Job.id.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(Job.id < cursor)
    if state:
        query = query.where(Job.state.in_(state))
    if owner:
        query = query.where(Job.owner == owner)
    for pair in label or []:
        name, found, value = pair.partition("=")
        if not found:
            raise HTTPException(422, "a label is NAME=VALUE")
        query = query.where(Job.tags.any((JobLabel.name == name) & (JobLabel.value == value)))
    if q:
        query = query.where(Job.name.icontains(q, autoescape=True))
    jobs = (await session.scalars(query)).all()
    more = len(jobs) > limit
    jobs = jobs[:limit]
    return Page(
        jobs=[JobOut.model_validate(job) for job in jobs],
        next=str(jobs[-1].id) if more else None,
    )


@app.post("/jobs", status_code=201, response_model_exclude_none=True)
async def create_job(spec: Spec, session: SessionDep, response: Response) -> JobOut:
    now = datetime.now(UTC).replace(tzinfo=None)
    job = Job(
        id=(time.time_ns() // 1_000_000 << 22) | secrets.randbits(22),
        name=spec.name,
        owner="bench",
        state="suspended" if spec.suspend else "pending",
        labels=spec.labels,
        created_at=now,
        spec=JobSpec(spec=spec.model_dump()),
        tags=[JobLabel(name=name, value=value) for name, value in spec.labels.items()],
    )
    session.add(job)
    await session.commit()
    response.headers["location"] = f"/jobs/{job.id}"
    return JobOut.model_validate(job)
