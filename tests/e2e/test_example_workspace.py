"""The workspace of the examples, from outside: section C of the requirements."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import signal
from typing import Any

import httpx
import pytest
import websockets

from tests.e2e.foreign import Talker, browsing, in_asyncio, talking, until
from tests.e2e.processes import ServerProcess, example


async def log_in(server: ServerProcess, user: str, seconds: float = 900) -> str:
    """A token for a user."""
    async with browsing(server) as web:
        answer = await web.post("/login", json={"user": user, "password": user, "seconds": seconds})
        assert answer.status_code == 200
        return str(answer.json()["token"])


def as_user(server: ServerProcess, token: str) -> httpx.AsyncClient:
    """A page's requests for a user."""
    return browsing(server, headers={"Authorization": f"Bearer {token}"})


async def events(peer: Talker, topic: str, count: int) -> list[tuple[str, dict[str, Any]]]:
    """The next events of a topic."""
    found = [await peer.receive(type="message", topic=topic) for _ in range(count)]
    return [(push["event"], push["data"]) for push in found]


async def deliver(web: httpx.AsyncClient, event: str, delivery: str, body: dict[str, Any]) -> httpx.Response:
    """A webhook, signed as GitHub does."""
    text = json.dumps(body).encode()
    signature = hmac.new(b"hush", text, hashlib.sha256).hexdigest()
    headers = {"X-GitHub-Event": event, "X-GitHub-Delivery": delivery, "X-Hub-Signature-256": f"sha256={signature}"}
    return await web.post("/hooks/github", content=text, headers=headers)


async def test_tokens_are_checked_in_the_header_the_first_message_and_the_subprotocol() -> None:
    """A JWT on connect; none, a forged and an expired one are refused, and the audit log has it all."""
    async with example("workspace") as server:

        async def talk() -> None:
            ada = await log_in(server, "ada")
            async with talking(server, ada) as peer:
                assert (await peer.receive(type="welcome"))["user"] == "ada"
            async with talking(server) as peer:
                assert (await peer.command("subscribe", topic="user:ada"))["code"] == "AUTH_REQUIRED"
                assert (await peer.command("auth", token=ada[:-4] + "AAAA"))["code"] == "AUTH_FAILED"
                assert (await peer.command("auth", token=ada))["user"] == "ada"
            url = f"ws://127.0.0.1:{server.port}/ws"
            protocols = [websockets.Subprotocol("realtime.v1"), websockets.Subprotocol(f"bearer.{ada}")]
            async with websockets.connect(url, proxy=None, subprotocols=protocols) as socket:
                assert json.loads(await socket.recv())["user"] == "ada"
            expired = await log_in(server, "ada", -1)
            with pytest.raises(websockets.InvalidStatus) as refused:
                async with talking(server, expired):
                    pass
            assert refused.value.response.status_code == 401
            assert b"TOKEN_EXPIRED" in (refused.value.response.body or b"")
            async with browsing(server) as web:
                wrong = await web.post("/login", json={"user": "ada", "password": "guessed"})
                assert (wrong.status_code, wrong.json()["code"]) == (401, "AUTH_FAILED")
                assert (await web.post("/login", content=b"{")).status_code == 400

        await in_asyncio(talk)
        log = b"".join(server.log).decode()
        for words in (
            *("audit=connect", "audit=login", "audit=disconnect", "audit=refused"),
            *("people.login: wrong user or password", "its signature is wrong", "the token has expired"),
        ):
            assert words in log
        assert "eyJ" not in log, "tokens are not for a log"


async def test_expiry_of_a_token_is_honoured_on_the_live_connection() -> None:
    """It is announced, and can be put off by a fresh token; else the connection ends with 4102."""
    async with example("workspace") as server:

        async def talk() -> None:
            # Half of its time is over when it is announced; the other half is for a machine that pauses.
            short, fresh = await log_in(server, "bob", 6.0), await log_in(server, "bob")
            async with talking(server, short) as peer, talking(server, short) as other:
                await peer.receive(type="token_expiring")
                assert (await peer.command("auth", token=fresh))["expires_in"] > 800
                assert await other.closed() == 4102
                assert (await peer.command("ping"))["type"] == "pong"

        await in_asyncio(talk)


async def test_user_is_placed_in_its_own_room_its_roles_and_global() -> None:
    """On connect, without asking; what is said there reaches whom it is for."""
    async with example("workspace") as server:

        async def talk() -> None:
            async with (
                talking(server, await log_in(server, "ada")) as ada,
                talking(server, await log_in(server, "bob")) as bob,
                talking(server, await log_in(server, "agent-7")) as agent,
            ):
                topics = [topic["topic"] for topic in (await ada.receive(type="welcome"))["topics"]]
                assert topics == ["user:ada", "role:admin", "role:developer", "global"]
                ((name, data),) = await events(ada, "user:ada", 1)
                assert (name, data["user_id"]) == ("connection.established", "ada")
                assert (await bob.request("announce", {"text": "x"}))["code"] == "PERMISSION_DENIED"
                await ada.request("announce", {"text": "lunch"})
                await ada.request("announce", {"text": "freeze", "to": "role:developer"})
                for peer in (ada, bob, agent):
                    assert await events(peer, "global", 1) == [("announcement", {"text": "lunch"})]
                for peer in (ada, bob):
                    assert await events(peer, "role:developer", 1) == [("announcement", {"text": "freeze"})]
                await agent.command("ping")
                assert not [push for push in agent.heard if push.get("topic") == "role:developer"]
                assert (await bob.command("subscribe", topic="user:ada"))["code"] == "PERMISSION_DENIED"
                assert (await bob.command("subscribe", topic="role:admin"))["code"] == "PERMISSION_DENIED"

        await in_asyncio(talk)


async def test_project_is_open_to_its_members_only() -> None:
    """Every room is checked, whatever is wanted there: over WebSocket, event stream and poll, and by REST handlers."""
    async with example("workspace") as server:

        async def talk() -> None:
            token = await log_in(server, "bob")
            async with talking(server, token) as bob, talking(server, token) as device, as_user(server, token) as web:
                await device.receive(type="welcome")
                for topic in ("room:lobby", "symbol:600519", "role:admin", "user:ada"):
                    assert (await bob.command("subscribe", topic=topic))["code"] == "PERMISSION_DENIED"
                for kind in ("subscribe", "members", "history"):
                    assert (await bob.command(kind, topic="project:gemini"))["code"] == "PERMISSION_DENIED"
                for topic in ("project:gemini", "project:apollo", "global", "user:bob"):
                    denied = await bob.command("publish", topic=topic, data="x")
                    assert denied["code"] == "PERMISSION_DENIED"
                for way in ("/sse?topic=", "/sse?topic=project:apollo&topic=", "/poll?timeout=0&topic="):
                    answer = await web.get(f"{way}project:gemini")
                    assert (answer.status_code, answer.json()["code"]) == (403, "PERMISSION_DENIED")
                refused = await web.patch("/projects/gemini", json={"name": "x"})
                assert (refused.status_code, refused.json()["code"]) == (403, "PERMISSION_DENIED")
                for peer in (bob, device):
                    told = await peer.receive(type="message", topic="user:bob", event="connection.error")
                    assert told["data"]["code"] == "PERMISSION_DENIED"
                assert (await web.get("/projects/gemini")).status_code == 403
                assert (await web.get("/projects/apollo")).json() == {"name": "Apollo"}
                assert (await bob.command("subscribe", topic="project:apollo"))["type"] == "subscribed"
                members = await bob.command("members", topic="project:apollo")
                assert [member["info"] for member in members["members"]] == [{"name": "Bob"}]

        await in_asyncio(talk)
        log = b"".join(server.log).decode()
        for words in ("audit=subscribe", "topic=project:apollo", "audit=denied", "audit=refused", "project refused"):
            assert words in log


async def test_member_is_sent_what_a_project_kept_and_no_one_else_is() -> None:
    """The rule of the members brings history too: over WebSocket and event stream, for projects in the token."""
    async with example("workspace") as server:

        async def talk() -> None:
            ada, agent = await log_in(server, "ada"), await log_in(server, "agent-7")
            async with as_user(server, ada) as web, talking(server, ada) as peer, talking(server, agent) as other:
                for project in ("apollo", "gemini"):
                    await web.patch(f"/projects/{project}", json={"name": "Moon"})
                    reply = await peer.command("subscribe", topic=f"project:{project}", recover={"last": 10})
                    assert reply["replayed"] == 1
                    denied = await other.command("subscribe", topic=f"project:{project}", recover={"last": 10})
                    assert denied["code"] == "PERMISSION_DENIED"
                assert (await other.command("subscribe", topic="agent:agent-7"))["code"] == "PERMISSION_DENIED"

        await in_asyncio(talk)


async def test_address_that_goes_on_guessing_passwords_is_not_listened_to() -> None:
    """A login of the program's own counts like one of the server's: a hundred guesses, then 429, unread."""
    async with example("workspace") as server:

        async def guess(web: httpx.AsyncClient) -> int:
            try:
                return (await web.post("/login", json={"user": "ada", "password": "guessed"})).status_code
            except httpx.TransportError:  # what is closed unread may be reset before its answer is seen
                return 429

        async def talk() -> list[int]:
            async with browsing(server) as web:
                return [await guess(web) for _ in range(150)]

        answers = await in_asyncio(talk)
        assert set(answers[:100]) == {401}
        assert 429 in answers[100:]


async def test_rest_handler_changes_a_project_and_its_members_see_it() -> None:
    """project.updated, then project.deleted, with who did it; a body that is no JSON changes nothing."""
    async with example("workspace") as server:

        async def talk() -> None:
            token = await log_in(server, "ada")
            async with talking(server, await log_in(server, "bob")) as bob, as_user(server, token) as web:
                await bob.command("subscribe", topic="project:apollo")
                assert (await web.patch("/projects/apollo", content=b"no")).json()["code"] == "BAD_REQUEST"
                changed = await web.patch("/projects/apollo", json={"name": "Apollo 11"})
                assert changed.json() == {"name": "Apollo 11"}
                assert (await web.delete("/projects/apollo")).status_code == 204
                assert await events(bob, "project:apollo", 2) == [
                    (
                        "project.updated",
                        {"project_id": "apollo", "changes": {"name": "Apollo 11"}, "updated_by": "ada"},
                    ),
                    ("project.deleted", {"project_id": "apollo", "deleted_by": "ada"}),
                ]
                assert (await web.patch("/projects/apollo", json={})).status_code == 403

        await in_asyncio(talk)


async def test_change_that_is_no_project_s_is_refused_and_not_kept() -> None:
    """Too long, of another type, or unknown: who looks at the project sees it as it was, and stays connected."""
    async with example("workspace") as server:

        async def talk() -> None:
            token = await log_in(server, "ada")
            async with talking(server, token) as ada, as_user(server, token) as web:
                wrong: dict[str, Any]
                for wrong in ({"name": "x" * 2_000_000}, {"description": "x" * 2001}, {"name": 1}, {"colour": "red"}):
                    refused = await web.patch("/projects/apollo", json=wrong)
                    assert (refused.status_code, refused.json()["code"]) == (400, "BAD_REQUEST")
                assert (await web.get("/projects/apollo")).json() == {"name": "Apollo"}
                await ada.command("subscribe", topic="project:apollo")
                changed = await web.patch("/projects/apollo", json={"description": "to the Moon"})
                assert changed.json() == {"name": "Apollo", "description": "to the Moon"}
                ((_, data),) = await events(ada, "project:apollo", 1)
                assert data["changes"] == {"description": "to the Moon"}

        await in_asyncio(talk)


async def test_what_cannot_be_told_has_not_happened_and_ends_no_program() -> None:
    """No topic is left for the project: a workflow breaks off in the log, the project is neither changed nor gone."""
    async with example("workspace", "--max-topics", "4") as server:

        async def talk() -> str:
            token = await log_in(server, "ada")
            async with talking(server, token) as ada, as_user(server, token) as web:
                await ada.receive(type="welcome")
                started = await web.post("/projects/apollo/workflows", json={"name": "release", "steps": ["lint"]})
                assert started.status_code == 202

                async def broke_off() -> bool:
                    return b"workflow broke off" in b"".join(server.log)

                await until(broke_off)
                for _ in range(2):
                    assert (await web.delete("/projects/apollo")).json()["code"] == "LIMIT_EXCEEDED"
                assert (await web.patch("/projects/apollo", json={"name": "x"})).json()["code"] == "LIMIT_EXCEEDED"
                assert (await ada.command("ping"))["type"] == "pong"
                return str(started.json()["workflow_id"])

        assert (await in_asyncio(talk)).encode() in b"".join(server.log)
        server.signal(signal.SIGTERM)
        assert await server.wait() == 0


async def test_workflow_tells_its_start_its_steps_and_its_end() -> None:
    """One that completes, and one whose second step fails."""
    async with example("workspace") as server:

        async def talk() -> None:
            token = await log_in(server, "bob")
            async with talking(server, token) as bob, as_user(server, token) as web:
                await bob.command("subscribe", topic="project:apollo")
                url = "/projects/apollo/workflows"
                answer = await web.post(url, json={"name": "release", "steps": ["lint", "test"]})
                assert answer.status_code == 202
                heard = await events(bob, "project:apollo", 5)
                assert [name for name, _ in heard] == [
                    *("workflow.started", "workflow.progress", "workflow.progress", "workflow.completed"),
                    "ai.analysis_complete",
                ]
                assert {data["workflow_id"] for _, data in heard[:4]} == {answer.json()["workflow_id"]}
                assert [data["percent"] for name, data in heard if name == "workflow.progress"] == [0, 50]
                assert [data["status"] for _, data in heard[:4]] == ["running"] * 3 + ["completed"]
                await web.post(url, json={"name": "release", "steps": ["lint", "explode", "test"]})
                name, data = (await events(bob, "project:apollo", 4))[-1]
                assert (name, data["status"], data["error"]) == ("workflow.failed", "failed", "failed at explode")
                wrong = await web.post(url, json={"name": "", "steps": []})
                assert (wrong.status_code, wrong.json()["code"]) == (400, "BAD_REQUEST")

        await in_asyncio(talk)


async def test_agent_is_seen_to_come_change_its_status_and_go() -> None:
    """An agent is a peer like any other; whoever watches its room is told, and a status is one of a few."""
    async with example("workspace") as server:

        async def talk() -> None:
            async with talking(server, await log_in(server, "bob")) as bob:
                assert (await bob.command("subscribe", topic="agent:agent-7"))["type"] == "subscribed"
                async with talking(server, await log_in(server, "agent-7")) as agent:
                    await agent.receive(type="message", event="connection.established")
                    await agent.request("report_status", "busy")
                    await agent.request("report_status", "idle")
                    assert (await agent.request("report_status", "asleep"))["code"] == "BAD_REQUEST"
                assert (await bob.request("report_status", "busy"))["code"] == "PERMISSION_DENIED"
                heard = await events(bob, "agent:agent-7", 4)
                assert [name for name, _ in heard] == [
                    *("agent.connected", "agent.status_changed", "agent.status_changed", "agent.disconnected")
                ]
                assert heard[1][1] == {"agent_id": "agent-7", "status": "busy", "previous": None}
                assert heard[2][1] == {"agent_id": "agent-7", "status": "idle", "previous": "busy"}

        await in_asyncio(talk)


async def test_signed_webhook_becomes_events_of_a_project() -> None:
    """Pull requests and issues, opened, changed and closed; what GitHub delivers twice is told once."""
    async with example("workspace", "--github-secret", "hush") as server:

        async def talk() -> None:
            repository, sender = {"name": "apollo"}, {"login": "ada"}
            pull = {"number": 7, "title": "Faster", "user": {"login": "bob"}, "merged": False}
            issue = {"number": 8, "title": "Slow", "labels": [{"name": "bug"}]}
            async with talking(server, await log_in(server, "bob")) as bob, browsing(server) as web:
                await bob.command("subscribe", topic="project:apollo")
                for number, action in enumerate(("opened", "opened", "edited", "closed")):
                    pull["merged"] = action == "closed"
                    hook = {"action": action, "repository": repository, "sender": sender, "pull_request": pull}
                    # The first is delivered twice.
                    answer = await deliver(web, "pull_request", f"p{max(1, number)}", hook)
                    assert answer.status_code == 204
                for action in ("opened", "labeled", "closed"):
                    hook = {"action": action, "repository": repository, "sender": sender, "issue": issue}
                    await deliver(web, "issues", f"i-{action}", hook)
                assert (await deliver(web, "ping", "z", {"zen": "Keep it logically awesome."})).status_code == 204
                heard = await events(bob, "project:apollo", 6)
                assert [name for name, _ in heard] == [
                    *("pr.created", "pr.updated", "pr.closed", "issue.created", "issue.updated", "issue.closed")
                ]
                about = {"project_id": "apollo", "number": 7, "title": "Faster", "author": "bob"}
                assert heard[0][1] == about
                assert heard[2][1] == {**about, "merged": True}
                assert heard[3][1]["labels"] == ["bug"]
                assert heard[5][1]["closed_by"] == "ada"
                forged = await web.post("/hooks/github", content=b"{}", headers={b"X-Hub-Signature-256": "é".encode()})
                assert (forged.status_code, forged.json()["code"]) == (401, "AUTH_FAILED")

        await in_asyncio(talk)


async def test_author_of_a_pull_request_is_sent_a_suggestion_also_when_away() -> None:
    """A user's own room keeps it: who resumes there finds what came meanwhile."""
    async with example("workspace", "--github-secret", "hush") as server:

        async def talk() -> None:
            token = await log_in(server, "bob")
            async with talking(server, token) as bob:
                welcome = await bob.receive(type="welcome")
                place = next(topic for topic in welcome["topics"] if topic["topic"] == "user:bob")
                greeting = await bob.receive(type="message", topic="user:bob")
            pull = {"number": 7, "title": "Faster", "user": {"login": "bob"}, "merged": False}
            hook = {"action": "opened", "repository": {"name": "apollo"}, "sender": pull["user"], "pull_request": pull}
            async with browsing(server) as web:
                await deliver(web, "pull_request", "p1", hook)
            cursor = f"user:bob!{place['epoch']}!{greeting['offset']}"
            async with talking(server, token, f"/ws?cursor={cursor}") as bob:
                suggestion = await bob.receive(type="message", topic="user:bob")
                assert suggestion["event"] == "ai.suggestion"
                assert suggestion["data"]["user_id"] == "bob"

        await in_asyncio(talk)


async def test_pages_of_other_origins_are_refused_unless_named() -> None:
    """For WebSocket and event stream alike."""
    async with example("workspace", "--origin", "https://app.example.com") as server:

        async def talk() -> None:
            token = await log_in(server, "bob")
            url, headers = f"ws://127.0.0.1:{server.port}/ws", {"Authorization": f"Bearer {token}"}
            origin = websockets.Origin("https://app.example.com")
            async with websockets.connect(url, proxy=None, additional_headers=headers, origin=origin) as socket:
                assert json.loads(await socket.recv())["type"] == "welcome"
            with pytest.raises(websockets.InvalidStatus) as refused:
                origin = websockets.Origin("https://elsewhere.example.com")
                await websockets.connect(url, proxy=None, additional_headers=headers, origin=origin)
            assert refused.value.response.status_code == 403
            async with as_user(server, token) as web:
                for page, status in (("https://app.example.com", 200), ("https://elsewhere.example.com", 403)):
                    async with web.stream("GET", "/sse?topic=global", headers={"Origin": page}) as stream:
                        assert stream.status_code == status
                        if status == 200:
                            assert stream.headers["Access-Control-Allow-Origin"] == page

        await in_asyncio(talk)


async def test_sigterm_tells_every_member_to_come_back() -> None:
    """With a workflow under way: the process ends in order all the same."""
    async with example("workspace") as server:

        async def talk() -> None:
            token = await log_in(server, "bob")
            async with talking(server, token) as bob, as_user(server, token) as web:
                await bob.command("subscribe", topic="project:apollo")
                await web.post("/projects/apollo/workflows", json={"name": "endless", "steps": ["wait"] * 1000})
                await bob.receive(type="message", event="workflow.started")
                server.signal(signal.SIGTERM)
                assert await bob.closed() == 4100
                assert bob.heard[-1]["reconnect"] is True

        await in_asyncio(talk)
        assert await server.wait() == 0


async def test_many_people_open_a_project_at_once() -> None:
    """Fifty connections of one team: each event reaches all of them."""
    async with example("workspace") as server:

        async def talk() -> None:
            token = await log_in(server, "bob")

            async def watch(ready: asyncio.Semaphore) -> dict[str, Any]:
                async with talking(server, token) as peer:
                    await peer.command("subscribe", topic="project:apollo")
                    ready.release()
                    return await peer.receive(type="message", event="project.updated")

            ready = asyncio.Semaphore(0)
            watching = [asyncio.create_task(watch(ready)) for _ in range(50)]
            for _ in watching:
                await ready.acquire()
            async with as_user(server, token) as web:
                await web.patch("/projects/apollo", json={"name": "Apollo 12"})
            assert {push["data"]["changes"]["name"] for push in await asyncio.gather(*watching)} == {"Apollo 12"}

        await in_asyncio(talk)
