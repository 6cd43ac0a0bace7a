"""The OpenAPI 3.1 document, written from the endpoints that are served."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import Struct

from realtime import __version__
from realtime.errors import ErrorCode
from transports.http.endpoints import JSON, Access, Endpoint
from transports.responses import STATUS

__all__ = ["openapi_document"]

_Object = dict[str, Any]
_REFERENCE = "#/components/schemas/{name}"

_SCHEMES: _Object = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "A back end's API key."},
    "bearer": {"type": "http", "scheme": "bearer", "description": "A back end's API key, in another header."},
    "token": {"type": "http", "scheme": "bearer", "description": "A user's token."},
    "secret": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Connection-Secret",
        "description": "The `secret` in the `welcome` of the event stream.",
    },
}
_SECURITY: dict[Access, list[_Object]] = {
    Access.ANYONE: [],
    Access.READER: [{"key": []}, {"bearer": []}],
    Access.PUBLISHER: [{"key": []}, {"bearer": []}],
    Access.ISSUER: [{"key": []}, {"bearer": []}],
    Access.ADMIN: [{"key": []}, {"bearer": []}],
    Access.PEER: [{"token": []}, {}],
    Access.SECRET: [{"secret": []}],
}
_NEEDS_LOGIN = frozenset({Access.READER, Access.PUBLISHER, Access.ISSUER, Access.ADMIN, Access.PEER})


class Error(Struct, tag_field="type", tag="error", frozen=True, omit_defaults=True):
    """What every refusal looks like, on every transport."""

    code: ErrorCode
    message: str
    #: Seconds after which it is worth while to try again.
    retry_after: float | None = None
    #: What to look for in the server's log.
    trace_id: str | None = None


def openapi_document(endpoints: Iterable[Endpoint], *, server: str = "/") -> _Object:
    """The document, ready for JSON."""
    endpoints = tuple(endpoints)
    types = [Error]
    for endpoint in endpoints:
        types += [kind for kind in (endpoint.body, endpoint.answer) if kind is not None]
    # All at once: msgspec then tells classes of the same name apart.
    found, schemas = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    written = iter(found)
    error = next(written)
    paths: _Object = {}
    for endpoint in endpoints:
        operation = _operation(endpoint)
        if endpoint.body is not None:
            operation["requestBody"] = _request_body(endpoint, next(written))
        operation["responses"] = _responses(endpoint, None if endpoint.answer is None else next(written), error)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "trio-realtime",
            "version": __version__,
            "description": "What a back end can ask of the server. A failure of the server's own is a 500.",
        },
        "servers": [{"url": server}],
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": _SCHEMES},
    }


def _operation(endpoint: Endpoint) -> _Object:
    summary, _, description = endpoint.doc.partition("\n\n")
    operation: _Object = {"operationId": endpoint.name, "summary": " ".join(summary.split())}
    if description:
        operation["description"] = " ".join(description.split())
    operation["security"] = _SECURITY[endpoint.access]
    parameters = [_path_parameter(name) for name in re.findall(r"{(\w+)}", endpoint.path)]
    if endpoint.query is not None:
        parameters += _query_parameters(endpoint.query)
    if parameters:
        operation["parameters"] = parameters
    return operation


def _path_parameter(name: str) -> _Object:
    schema: _Object = {"type": "string", "minLength": 1}
    if name != "user":
        schema["pattern"] = "^[^/]+$"
    if name == "topic":
        schema["examples"] = ["room:lobby"]
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _query_parameters(model: type[Struct]) -> list[_Object]:
    (_,), components = msgspec.json.schema_components([model], ref_template=_REFERENCE)
    schema = components[model.__name__]
    required = schema["required"]
    return [
        {"name": name, "in": "query", "required": name in required, "schema": member}
        for name, member in schema["properties"].items()
    ]


def _request_body(endpoint: Endpoint, schema: _Object) -> _Object:
    needed = not (isinstance(endpoint.body, type) and _may_be_empty(endpoint.body))
    return {"required": needed, "content": {JSON: {"schema": schema}}}


def _may_be_empty(model: type[Struct]) -> bool:
    """Whether ``{}`` is one, for which an empty body is taken."""
    return not any(member.required for member in msgspec.structs.fields(model))


def _responses(endpoint: Endpoint, answer: _Object | None, error: _Object) -> _Object:
    responses: _Object = {}
    for status in endpoint.statuses:
        responses[str(status)] = {"description": HTTPStatus(status).phrase}
        if answer is not None:
            responses[str(status)]["content"] = {endpoint.media: {"schema": answer}}
    for status, codes in sorted(_refusals(endpoint).items()):
        responses[str(status)] = {
            "description": ", ".join(f"`{code}`" for code in codes),
            "content": {JSON: {"schema": error}},
        }
    return responses


def _refusals(endpoint: Endpoint) -> dict[int, list[ErrorCode]]:
    """The codes of each status that is no success."""
    codes = list(endpoint.errors)
    if endpoint.access in _NEEDS_LOGIN:
        codes.append(ErrorCode.AUTH_REQUIRED)
    if endpoint.body is not None or endpoint.query is not None:
        codes.append(ErrorCode.BAD_REQUEST)
    if endpoint.body is not None:
        codes.append(ErrorCode.PAYLOAD_TOO_LARGE)
    by_status: dict[int, list[ErrorCode]] = {}
    for code in sorted(set(codes)):
        by_status.setdefault(STATUS[code], []).append(code)
    return by_status
