"""What is done to a project over HTTP: it is shown, changed, deleted, and a workflow is started in it.

Each change is published first. What could not be told has not happened, and the members never see a state that nobody
told them.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any

import msgspec
import structlog
import trio
from quart import Blueprint, current_app, request
from workspace_events import Id, ProjectChanges, Workspace
from workspace_people import PROJECTS

from realtime import CommandError, ErrorCode
from realtime.auth import Carrier
from realtime.server import Server

projects = Blueprint("projects", __name__)
log = structlog.get_logger("workspace")


async def member_of(project_id: str) -> str:
    """The user behind a request for a project, who is a member of it. Raises `CommandError`, and tells the user."""
    server: Server = current_app.extensions["realtime"]
    _, _, token = request.headers.get("Authorization", "").partition(" ")
    identity = await server.log_in(token, Carrier.HEADER)
    assert identity.user is not None  # every token names one
    if project_id in PROJECTS and project_id in identity.claims["projects"]:
        return identity.user
    log.warning("project refused", user=identity.user, project=project_id)
    # Nobody is to learn whether there is another one.
    error = CommandError(ErrorCode.PERMISSION_DENIED, "you are in no such project")
    await workspace().connection_error(user_id=identity.user, code=error.code, message=error.message)
    raise error


def workspace() -> Workspace:
    found: Workspace = current_app.extensions["workspace"]
    return found


@projects.get("/projects/<project_id>")
async def show_project(project_id: str) -> dict[str, Any]:
    await member_of(project_id)
    return PROJECTS[project_id]


@projects.patch("/projects/<project_id>")
async def change_project(project_id: str) -> dict[str, Any]:
    user = await member_of(project_id)
    project = PROJECTS[project_id]
    changes = msgspec.json.decode(await request.get_data(), type=ProjectChanges)
    await workspace().project_updated(project_id=project_id, changes=changes, updated_by=user)
    project.update(msgspec.to_builtins(changes))
    return project


@projects.delete("/projects/<project_id>")
async def delete_project(project_id: str) -> tuple[str, int]:
    user = await member_of(project_id)
    await workspace().project_deleted(project_id=project_id, deleted_by=user)
    PROJECTS.pop(project_id, None)  # meanwhile somebody else may have done the same
    return "", 204


class Workflow(msgspec.Struct):
    """The body of ``POST /projects/<id>/workflows``. A step that is called ``explode`` does."""

    name: Id
    steps: Annotated[list[Id], msgspec.Meta(max_length=1000)]


@projects.post("/projects/<project_id>/workflows")
async def start_workflow(project_id: str) -> tuple[dict[str, str], int]:
    """Answer at once: the work belongs to the nursery of the program, and not to this request."""
    await member_of(project_id)
    workflow = msgspec.json.decode(await request.get_data(), type=Workflow)
    workflow_id = secrets.token_hex(4)
    current_app.extensions["nursery"].start_soon(work, workspace(), project_id, workflow_id, workflow)
    return {"workflow_id": workflow_id}, 202


async def work(workspace: Workspace, project_id: str, workflow_id: str, workflow: Workflow) -> None:
    """The workflow engine: a task for each workflow. One whose events are refused is no reason to end the program."""
    try:
        await run_workflow(workspace, project_id, workflow_id, workflow)
    except CommandError as error:
        log.warning("workflow broke off", workflow=workflow_id, error=str(error))


async def run_workflow(workspace: Workspace, project_id: str, workflow_id: str, workflow: Workflow) -> None:
    """Go through the steps, telling where it is. Raises `CommandError`."""
    began = trio.current_time()
    await workspace.workflow_started(project_id=project_id, workflow_id=workflow_id, name=workflow.name)
    for done, step in enumerate(workflow.steps):
        percent = 100 * done / len(workflow.steps)
        await workspace.workflow_progress(project_id=project_id, workflow_id=workflow_id, percent=percent, step=step)
        await trio.sleep(0.05)
        if step == "explode":
            await workspace.workflow_failed(project_id=project_id, workflow_id=workflow_id, error=f"failed at {step}")
            return
    seconds = trio.current_time() - began
    await workspace.workflow_completed(project_id=project_id, workflow_id=workflow_id, duration_seconds=seconds)
    await workspace.ai_analysis_complete(project_id=project_id, summary=f"{workflow.name} is fine", findings=[])
