"""What a filter lets through, and what is told about one that is wrong."""

import msgspec

from realtime import CommandError
from realtime.filters import parse_filter

PAYLOADS = [
    '{"price": 12.5, "side": "buy"}',
    '{"price": 12.5, "side": "sell"}',
    '{"price": "12.5", "side": "buy"}',
    '{"side": "buy"}',
]
FILTERS = [
    b'{"and": [{">": ["price", 10]}, {"=": ["side", "buy"]}]}',
    b'{"not": {">": ["price", 10]}}',
    b'{"exists": "price"}',
]


def main():
    members = [msgspec.json.decode(payload, type=dict[str, msgspec.Raw]) for payload in PAYLOADS]
    for text in FILTERS:
        asked = parse_filter(text)
        print(text.decode())
        for payload, found in zip(PAYLOADS, members, strict=True):
            print("  yes" if asked.matches(found) else "  no ", payload)

    print(parse_filter(b'{"=": ["price", 5]}') == parse_filter(b'{ "=": [["price"], 5.0] }'))
    try:
        parse_filter(b'{"and": [{"exists": "price"}, {"<": ["price", null]}]}')
    except CommandError as error:
        print(error)


if __name__ == "__main__":
    main()
