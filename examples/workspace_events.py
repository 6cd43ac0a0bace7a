"""The events of a team workspace: projects, agents, workflows, pull requests, issues, suggestions.

Any part of a back end is given a `Workspace` and calls its methods; `CATALOGUE` says what they publish. Run as a
program, this file prints the AsyncAPI document of a server that has the catalogue.
"""
# ruff: noqa: D101  (the models say it by their names)

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from realtime import Broadcaster, EventCatalogue
from realtime.asyncapi import asyncapi_document
from realtime.topics import Kinds

Id = Annotated[str, Meta(min_length=1, max_length=100)]
Number = Annotated[int, Meta(ge=1)]


class AgentStatus(StrEnum):
    IDLE = "idle"
    BUSY = "busy"
    PAUSED = "paused"
    FAILED = "failed"
    OFFLINE = "offline"


class WorkflowStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ProjectChanges(Struct, kw_only=True, forbid_unknown_fields=True):
    name: Id | UnsetType = UNSET
    description: Annotated[str, Meta(max_length=2000)] | UnsetType = UNSET


class ProjectUpdated(Struct, kw_only=True):
    project_id: Id
    changes: ProjectChanges
    updated_by: Id | None = None


class ProjectDeleted(Struct, kw_only=True):
    project_id: Id
    deleted_by: Id | None = None


class AgentConnected(Struct, kw_only=True):
    agent_id: Id
    name: str
    capabilities: list[str] = []


class AgentStatusChanged(Struct, kw_only=True):
    agent_id: Id
    status: AgentStatus
    previous: AgentStatus | None = None


class AgentDisconnected(Struct, kw_only=True):
    agent_id: Id
    reason: str | None = None


class WorkflowStarted(Struct, kw_only=True):
    project_id: Id
    workflow_id: Id
    name: str
    status: WorkflowStatus = WorkflowStatus.RUNNING


class WorkflowProgress(Struct, kw_only=True):
    project_id: Id
    workflow_id: Id
    percent: Annotated[float, Meta(ge=0, le=100)]
    step: str | None = None
    status: WorkflowStatus = WorkflowStatus.RUNNING


class WorkflowCompleted(Struct, kw_only=True):
    project_id: Id
    workflow_id: Id
    duration_seconds: Annotated[float, Meta(ge=0)]
    status: WorkflowStatus = WorkflowStatus.COMPLETED


class WorkflowFailed(Struct, kw_only=True):
    project_id: Id
    workflow_id: Id
    error: str
    status: WorkflowStatus = WorkflowStatus.FAILED


class PullRequest(Struct, kw_only=True):
    project_id: Id
    number: Number
    title: str
    author: Id


class PullRequestUpdated(PullRequest, kw_only=True):
    changes: dict[str, Any]


class PullRequestClosed(PullRequest, kw_only=True):
    merged: bool


class Issue(Struct, kw_only=True):
    project_id: Id
    number: Number
    title: str
    labels: list[str] = []


class IssueUpdated(Issue, kw_only=True):
    changes: dict[str, Any]


class IssueClosed(Issue, kw_only=True):
    closed_by: Id


class AiSuggestion(Struct, kw_only=True):
    user_id: Id
    text: str
    confidence: Annotated[float, Meta(ge=0, le=1)]


class AiAnalysisComplete(Struct, kw_only=True):
    project_id: Id
    summary: str
    findings: list[str]


class ConnectionEstablished(Struct, kw_only=True):
    user_id: Id
    connected_at: datetime
    topics: list[str]


class ConnectionFailed(Struct, kw_only=True):
    user_id: Id
    code: str
    message: str


CATALOGUE = EventCatalogue(title="Workspace", version="1")
event = CATALOGUE.event


class Workspace(Broadcaster):
    """A method for each event: ``await workspace.project_deleted(project_id="12")``."""

    project_updated = event("project.updated", ProjectUpdated, topic="project:{project_id}")
    project_deleted = event("project.deleted", ProjectDeleted, topic="project:{project_id}")
    agent_status_changed = event("agent.status_changed", AgentStatusChanged, topic="agent:{agent_id}")
    agent_connected = event("agent.connected", AgentConnected, topic="agent:{agent_id}")
    agent_disconnected = event("agent.disconnected", AgentDisconnected, topic="agent:{agent_id}")
    workflow_started = event("workflow.started", WorkflowStarted, topic="project:{project_id}")
    workflow_progress = event("workflow.progress", WorkflowProgress, topic="project:{project_id}")
    workflow_completed = event("workflow.completed", WorkflowCompleted, topic="project:{project_id}")
    workflow_failed = event("workflow.failed", WorkflowFailed, topic="project:{project_id}")
    pr_created = event("pr.created", PullRequest, topic="project:{project_id}")
    pr_updated = event("pr.updated", PullRequestUpdated, topic="project:{project_id}")
    pr_closed = event("pr.closed", PullRequestClosed, topic="project:{project_id}")
    issue_created = event("issue.created", Issue, topic="project:{project_id}")
    issue_updated = event("issue.updated", IssueUpdated, topic="project:{project_id}")
    issue_closed = event("issue.closed", IssueClosed, topic="project:{project_id}")
    ai_suggestion = event("ai.suggestion", AiSuggestion, topic="user:{user_id}")
    ai_analysis_complete = event("ai.analysis_complete", AiAnalysisComplete, topic="project:{project_id}")
    connection_established = event("connection.established", ConnectionEstablished, topic="user:{user_id}")
    connection_error = event("connection.error", ConnectionFailed, topic="user:{user_id}")


if __name__ == "__main__":
    document = asyncapi_document(CATALOGUE, kinds=Kinds())
    print(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
