"""Work in parallel that reports itself to a progress session.

::

    run_batch
    |- watch      cancels the workers when somebody else ends the session
    '- workers    at most ``max_workers``, each takes the next job when it is done with one

A job that fails is reported and the others go on. Once all are done, or the batch is cancelled, the session ends.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress

import structlog
import trio
from attrs import field, frozen, validators

from realtime.engine import lone_exceptions_bare
from realtime.errors import CommandError
from realtime.progress import ProgressSessions
from realtime.progress_state import (
    MAX_NAME,
    MAX_TEXT,
    Event,
    SessionCompleted,
    SessionEnded,
    TaskCompleted,
    TaskFailed,
    check_event,
)

__all__ = ["Job", "JobFailed", "Output", "run_batch"]

log = structlog.get_logger("realtime")

#: How long a batch that was cancelled may take to say so.
FAREWELL_SECONDS = 5.0


class JobFailed(Exception):
    """Raised by a job that could not be done; the message is for those who follow the session."""


@frozen
class Output:
    """What a job made."""

    file_path: str | None = None
    #: In bytes, or as a page is to show it.
    file_size: int | str | None = None


@frozen
class Job:
    """The work of one node."""

    node_id: str = field(validator=[validators.min_len(1), validators.max_len(MAX_NAME)])
    #: What it returns, if it made anything, is an `Output`.
    work: Callable[[], Awaitable[Output | None]]
    group_id: str | None = field(default=None, validator=validators.optional(validators.max_len(MAX_NAME)))


async def run_batch(
    sessions: ProgressSessions, session_id: str, jobs: Iterable[Job], *, max_workers: int = 12
) -> SessionCompleted:
    """Do all jobs, at most ``max_workers`` at once, and end the session; returns its final event.

    ``jobs`` is read as workers become free. When the session is ended by somebody else, the jobs are cancelled and
    that end is returned. Cancelled, the session ends as cancelled; failed, because ``jobs`` raised or an event was
    refused, as failed.
    """
    if max_workers < 1:
        raise ValueError("max_workers must be at least 1")
    sessions.state(session_id)  # an unknown session is refused before any work is done
    waiting = iter(jobs)
    try:
        with lone_exceptions_bare():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_watch, sessions, session_id, nursery.cancel_scope)
                async with trio.open_nursery() as workers:
                    for _ in range(max_workers):
                        workers.start_soon(_work, sessions, session_id, waiting)
                nursery.cancel_scope.cancel()
        return await sessions.complete(session_id)
    except BaseException:  # also when cancelled: who follows the session is told of its end, and it goes on up
        end = sessions.cancel if trio.current_effective_deadline() == -math.inf else sessions.fail
        # Where not even that can be told, the broker or the session is gone; the reason why we are here counts more.
        with trio.move_on_after(FAREWELL_SECONDS, shield=True), suppress(CommandError):
            await end(session_id)
        raise


async def _watch(sessions: ProgressSessions, session_id: str, scope: trio.CancelScope) -> None:
    await sessions.wait_ended(session_id)
    scope.cancel()


async def _work(sessions: ProgressSessions, session_id: str, jobs: Iterator[Job]) -> None:
    for job in jobs:
        try:
            await sessions.notify_progress(session_id, await _outcome(session_id, job))
        except SessionEnded:
            return


async def _outcome(session_id: str, job: Job) -> Event:
    try:
        output = await job.work() or Output()
        # Checked here: what a job made may be nothing that an event can hold, and that is its fault alone.
        return check_event(
            TaskCompleted(
                node_id=job.node_id, file_path=output.file_path, file_size=output.file_size, group_id=job.group_id
            )
        )
    except JobFailed as failure:
        message = str(failure)[:MAX_TEXT]
    except SessionEnded:
        raise  # the job reported by itself, and somebody had ended the session meanwhile
    except Exception:  # a bug in the job: its text is not for the page
        trace_id = secrets.token_hex(8)
        log.exception("job failed", session=session_id, node=job.node_id, trace_id=trace_id)
        message = f"internal error, trace id {trace_id}"
    return TaskFailed(node_id=job.node_id, error_message=message, group_id=job.group_id)
