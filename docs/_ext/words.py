"""What the tables of the reference say beside what the code says itself. `from_code` keeps the keys complete."""

SETTINGS = {
    "host": "The address to listen on.",
    "port": "The port to listen on; 0 picks a free one.",
    "tls_certificate": "The certificate chain.",
    "tls_key": "The private key of ``tls_certificate``.",
    "dev": "",
    "allow_anonymous": "+ What it may then do, its kinds of topics and the rules say.",
    "origins": "+ Each is scheme, host and port as a browser sends them: ``https://example.com``. A reload takes them "
    "over.",
    "trusted_proxies": "+ Each is ``10.0.0.7`` or ``10.0.0.0/8``. What anybody else says of it is not read.",
    "forwarded_header": "+ ``x-forwarded``: ``X-Forwarded-For``, ``-Proto`` and ``-Host``. ``forwarded``: RFC 7239.",
    "admin_page": "+ Beside an application of your own it is at ``/realtime/admin``.",
    "api_keys": "+ Empty: nobody uses the HTTP API. A key itself is refused in a file. A reload takes them over.",
    "kinds": "+ See :doc:`kinds`. Not read from the environment.",
    "rules": "+ See :doc:`/howto/permissions`. Not read from the environment. A reload takes them over.",
    "authorize_timeout_seconds": "+ Then the answer is ``UNAVAILABLE``.",
    "jwt_algorithms": "+ Of ``HS256``, ``RS256``, ``ES256`` and ``EdDSA``. Others are refused.",
    "jwt_secret": "",
    "jwt_key_files": "",
    "jwt_jwks_url": "+ ``https``, or ``http`` on this computer. Keys come from there alone then.",
    "jwt_issuer": "What the claim ``iss`` must be. None: it is not looked at.",
    "jwt_audience": "What the claim ``aud`` must be, or hold. None: it is not looked at.",
    "jwt_leeway_seconds": "",
    "jwt_require_expiry": "Whether a token without ``exp`` is refused.",
    "jwt_user_claim": "The claim that names the user.",
    "jwt_roles_claim": "The claim with the roles: a list, or one text with blanks between.",
    "jwt_info_claim": "The claim that others in a topic are shown: an object.",
    "jwt_topics_claim": "The claim that opens topics: a list of patterns, or an object from patterns to verbs.",
    "jwt_rights_claim": "The claim with rights on the HTTP API: a list.",
    "jwks_refresh_seconds": "How old a set of keys may be before it is fetched again.",
    "jwks_retry_seconds": "The least time between two fetches.",
    "jwks_timeout_seconds": "How long a fetch may take.",
    "cookie_name": "+ It counts only in requests that a page of an allowed origin sends.",
    "query_tokens": "",
    "ticket_seconds": "How long a ticket is good.",
    "max_tickets": "Tickets that may be out at once; the next one is refused.",
    "revocation_seconds": "",
    "audit": "+ What is counted is counted in any case.",
    "max_message_bytes": "The largest message: a command of a peer, or the JSON text of a payload.",
    "max_topics": "Topics of one connection.",
    "max_requests": "",
    "auto_subscribe": "+ Other topics may stand here too. A topic that is not open to the peer is left out.",
    "max_server_topics": "",
    "max_history_bytes": "",
    "max_connections": "Connections of all sorts at once; the next one is refused with 503.",
    "max_topics_per_user": "Topics that one user has asked for; one more is refused with ``LIMIT_EXCEEDED``. Polls "
    "count while they wait; peers without a login do not.",
    "max_connections_per_user": "Connections of one user at once; one more is refused with ``LIMIT_EXCEEDED``.",
    "max_connections_per_address": "Connections of one address at once; one more is refused with 429.",
    "max_handshakes": "+ One more is refused with 503.",
    "admission_rate": "+ Over it the next one is refused with 503.",
    "admission_burst": "As many may come at once.",
    "refusal_rate": "+ They are told 429.",
    "refusal_burst": "As many refused attempts cost an address nothing.",
    "command_rate": "+ Over it a command is refused with ``RATE_LIMIT_EXCEEDED``. Each part of a batch counts.",
    "command_burst": "As many commands may come at once.",
    "publish_rate": "+ Those without a user count by their address.",
    "publish_burst": "As many messages may come at once.",
    "max_json_depth": "",
    "recover_limit": "+ A recovery that needs more is refused as a whole, with ``why: limit``; ``last`` is cut to it.",
    "idempotency_keys": "",
    "idempotency_seconds": "",
    "max_sessions": "+ The next one is refused.",
    "max_session_nodes": "+ One more is refused with ``LIMIT_EXCEEDED``.",
    "session_keep_seconds": "How long the state of a session that has ended can be asked for.",
    "session_abandoned_seconds": "A session without an event for this long is failed.",
    "outbox_messages": "+ Counted over all topics of the peer.",
    "outbox_bytes": "The same in bytes.",
    "send_buffer_bytes": "+ Linux takes twice of what it is asked for.",
    "ingress_messages": "",
    "ingress_bytes": "The same in bytes.",
    "ping_interval_seconds": "How often a peer is pinged.",
    "pong_timeout_seconds": "A peer that was silent for the interval and this long is closed with 4108.",
    "idle_timeout_seconds": "A peer that has sent no command for this long is closed with 4008. Pongs and ``ping`` "
    "commands do not count.",
    "auth_timeout_seconds": "A peer that has not logged in after this long is closed with 4001.",
    "token_warning_seconds": "So long before a login expires its owner is told; of a short one half way through.",
    "write_stall_timeout_seconds": "+ It is closed with 4101.",
    "request_timeout_seconds": "",
    "keep_alive_seconds": "How long an HTTP connection may be silent between two requests.",
    "max_head_bytes": "The longest head of a request; a longer one is refused with 431.",
    "grace_seconds": "",
    "reconnect_spread_seconds": "",
}

KIND_OPTIONS = {
    "name": "The word before the colon. In a file it is the name of the table.",
    "bare": "",
    "pattern": "A regular expression.",
    "invalid_code": "",
    "join": "Who may subscribe, read the history and see who is there, unless a rule says otherwise.",
    "publish": "Which peers may publish, unless a rule says otherwise. Back ends and the program itself always may.",
    "must_exist": "+ The program, or a back end over HTTP, creates and removes it.",
    "missing_code": "",
    "max_per_connection": "",
    "mode": "The mode of a subscription that asks for none.",
    "overflow": "+ The policies stand below.",
    "drop_duplicates": "",
    "history_messages": "How many messages are kept of each topic.",
    "history_bytes": "How many bytes of payload are kept of each topic.",
    "history_age_seconds": "How long a message is kept.",
    "block_timeout_seconds": "",
    "presence": "What subscribers are told of each other.",
    "presence_by": "What makes a member of its own.",
    "presence_linger_seconds": "How long a member whose connection was lost is still there.",
    "presence_told_members": "In a topic of more members only their number is told.",
    "max_members": "Members that a topic may have; the next one is refused with ``LIMIT_EXCEEDED``.",
}

#: For each error code what it means, and what whoever gets it should do.
CODES = {
    "BAD_REQUEST": (
        "A member is missing, of the wrong type or out of bounds, or asks for something that is not offered.",
        "Correct the command; the message says which member. Do not send the same again.",
    ),
    "UNKNOWN_TYPE": ("There is no command of this ``type``.", "Correct the ``type``, or ask a newer server."),
    "AUTH_REQUIRED": (
        "The peer has not logged in, or the HTTP request brings no API key.",
        "Send ``auth`` with a token, or the header, and try again.",
    ),
    "AUTH_FAILED": (
        "The token, the ticket or the API key is no good, was revoked, or belongs to another user.",
        "Get a new one for the same user. A ticket is good once: each connection needs a new one.",
    ),
    "TOKEN_EXPIRED": ("The token was good once.", "Get a new token and send it with ``auth``."),
    "PERMISSION_DENIED": (
        (
            "This peer may not do this on this topic, or request this action; or the API key has not this right; or "
            "the page's origin is not allowed."
        ),
        "Do not retry. Ask the operator, whom ``realtime check-access`` tells what decides.",
    ),
    "INVALID_TOPIC": (
        "There is no such kind, or the name does not match its pattern.",
        "Correct the topic: ``kind:name``, or a bare kind.",
    ),
    "INVALID_SYMBOL": (
        "The name of a ``symbol:`` topic does not match its pattern.",
        "Use six digits, or change the pattern.",
    ),
    "ROOM_NOT_FOUND": (
        "The topic must be created before it is joined, or it was removed.",
        "Create it, or correct its name.",
    ),
    "SESSION_NOT_FOUND": (
        "There is no such progress session, or it ended too long ago.",
        "Start one, or correct its name.",
    ),
    "CONNECTION_NOT_FOUND": (
        "There is no such connection, or no longer. Or the ``X-Connection-Secret`` is not that of its ``welcome``.",
        "Connect again, and use the new id and secret.",
    ),
    "ALREADY_SUBSCRIBED": ("This connection has the topic already.", "Go on, or send ``update`` to change the view."),
    "NOT_SUBSCRIBED": ("This connection does not have the topic.", "Subscribe first."),
    "SUBSCRIPTION_FAILED": ("A subscription could not be made for a passing reason.", "Try again later."),
    "LIMIT_EXCEEDED": (
        (
            "The connection, or the server, has as many topics as it may, or as many requests under way; or as many "
            "progress sessions run, or a session has as many nodes, or a topic as many members, as may; or a user or "
            "an address has as many connections, or as many tickets are out."
        ),
        "Unsubscribe from something, wait for replies, or have the operator raise the limit that the message names.",
    ),
    "RATE_LIMIT_EXCEEDED": (
        (
            "Too many commands, messages or polls in too little time; or too much of what came from this address was "
            "refused."
        ),
        "Wait ``retry_after`` seconds: then it is not refused. A peer that goes on at once is closed with 4029.",
    ),
    "PAYLOAD_TOO_LARGE": (
        "The message has more than ``max_message_bytes``.",
        "Send less; put large things elsewhere and send their address.",
    ),
    "UNKNOWN_ACTION": ("No handler is registered for this ``action``.", "Correct the ``action``."),
    "TIMEOUT": (
        (
            "A publish under policy ``block`` waited as long as it may for a full subscriber; nothing was published. "
            "Or a handler was not done in time."
        ),
        "Try again, after ``retry_after`` seconds where it is there. Give a request more ``timeout``.",
    ),
    "UNAVAILABLE": (
        (
            "The server is not ready, or has too many connections, or too many come at once; or too many calls wait "
            "for an action; or a circuit breaker is open, as something that the action needs is out of order; or "
            "nobody answers who could say who the peer is, or what it may do."
        ),
        "Try again after ``retry_after`` seconds.",
    ),
    "INTERNAL_ERROR": (
        "The server failed. Its log tells more under the same ``trace_id``.",
        "Report the ``trace_id``. Try again once at the most.",
    ),
}

CLOSES = {
    "NORMAL": "The conversation is over, or the session completed that the path led to.",
    "GONE": "Never on the wire: the peer closed, hung up, or its network went away. A program sees it as the reason.",
    "PROTOCOL_ERROR": "The frames broke RFC 6455. Correct the client.",
    "UNSUPPORTED_DATA": "A binary message. Send text.",
    "INVALID_TEXT": "A text message that is not UTF-8. Correct the client.",
    "TOO_BIG": "A message of more than ``max_message_bytes``. Send less.",
    "INTERNAL": "The server failed; the ``trace_id`` of the ``disconnect`` stands in its log.",
    "BAD_REQUEST": "A message that is not one JSON object, a topic in the path or the URL that cannot be had so, "
    "or input on an event stream. Correct the client.",
    "NOT_AUTHENTICATED": "No login within ``auth_timeout_seconds``, or three that failed. Log in first.",
    "FORBIDDEN": "Closed by the operator, or the login was revoked, or the path or the URL leads to a topic that this "
    "peer may not have.",
    "NO_SUCH_SESSION": "The session or topic that the path or the URL names does not exist. Correct the name.",
    "IDLE": "No command for ``idle_timeout_seconds``. Come back when there is something to do.",
    "TOO_FAST": "A hundred commands or pings too many in a short time. Come back after ``retry_after``, and slower.",
    "SHUTTING_DOWN": "The server stops or is replaced. Come back after ``retry_after``, which is each peer's own.",
    "TOO_SLOW": "The outbox was full under policy ``disconnect``, or a write made no progress for "
    "``write_stall_timeout_seconds``. Come back with ``recover``.",
    "TOKEN_EXPIRED": "The login ended, and no new one came with ``auth``. Come back with a new token.",
    "OVERLOADED": "Too many replies waited for a peer that does not read them, or the path or the URL leads to a topic "
    "that is full, or the user has too many connections. Come back later, and read.",
    "NO_PONG": "No byte for ``ping_interval_seconds`` and ``pong_timeout_seconds``. Come back.",
}
