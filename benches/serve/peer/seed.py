"""Fills the yardstick's database with the jobs that labctl's has: one a line on standard input, as labctl exports them."""

import asyncio
import json
import sys
from datetime import datetime

from app import Base, Job, JobLabel, JobSpec, Session, engine


def moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text).replace(tzinfo=None) if text else None


def job(number: int, row: dict) -> Job:
    row.pop("parent", None)
    times = {name: moment(row.pop(name, None)) for name in ("created_at", "started_at", "finished_at")}
    row["id"] = (int(times["created_at"].timestamp() * 1000) << 22) | number
    return Job(
        **row,
        **times,
        spec=JobSpec(spec={"name": row["name"], "command": ["true"]}),
        tags=[JobLabel(name=name, value=value) for name, value in row["labels"].items()],
    )


async def main() -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    lines = sys.stdin.read().splitlines()
    async with Session() as session:
        session.add_all([job(number, json.loads(line)) for number, line in enumerate(reversed(lines))])
        await session.commit()
    await engine.dispose()


asyncio.run(main())
