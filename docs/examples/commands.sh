stream=$(mktemp)
curl -sN 'http://127.0.0.1:8000/sse?topic=room:lobby' > "$stream" &
trap 'kill $!; rm "$stream"' EXIT
until grep -q '"secret"' "$stream"; do sleep 0.1; done

connection=$(sed -n 's/.*"connection":"\([^"]*\)".*/\1/p' "$stream" | head -1)
secret=$(sed -n 's/.*"secret":"\([^"]*\)".*/\1/p' "$stream" | head -1)

send() {
  curl -s "http://127.0.0.1:8000/sse/$connection" -H "X-Connection-Secret: $secret" -d "$1"
}

send '{"type": "subscribe", "id": 1, "topic": "room:annex"}'
send '{"type": "publish", "id": 2, "topic": "room:lobby", "data": {"text": "hello"}, "echo": false}'
