"""Directives that write tables out of the code, so that the reference cannot say anything else.

Each keeps the words that the code has no place for beside the facts that it reads from the code, and refuses to build
when the two do not name the same things.
"""

from __future__ import annotations

import enum
import inspect
import re
from pathlib import Path

import attrs
from click.testing import CliRunner
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective
from words import CLOSES, CODES, KIND_OPTIONS, SETTINGS

from realtime import cli, closing, config, errors, topics
from transports import responses

_SOURCES = [
    *Path(inspect.getfile(config)).parent.rglob("*.py"),
    *Path(inspect.getfile(responses)).parent.rglob("*.py"),
]


def _agree(where, written, found):
    if set(written) != set(found):
        raise ExtensionError(f"{where}: words and code differ in {sorted(set(written) ^ set(found))}")


def _list_table(head, rows, widths):
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in [head, *rows]:
        for number, cell in enumerate(row):
            lines.append(f"   {'*' if number == 0 else ' '} - {cell}")
    return [*lines, ""]


def _comments(cls):
    """The ``#:`` comment above each field."""
    found, comment = {}, []
    for line in inspect.getsource(cls).splitlines():
        text = line.strip()
        if text.startswith("#:"):
            comment.append(text[2:].strip())
        elif comment and text.startswith("# "):
            comment.append(text[1:].strip())
        else:
            if match := re.match(r"(\w+):", text):
                found[match[1]] = " ".join(comment)
            comment = []
    return found


def _default(attribute):
    default = attribute.default
    if isinstance(default, attrs.Factory):
        return "empty"
    if default is attrs.NOTHING:
        return "(required)"
    if isinstance(default, enum.StrEnum):
        return f"``{default.value}``"
    if default == ():
        return "empty"
    if isinstance(default, tuple):
        return ", ".join(f"``{item}``" for item in default)
    if isinstance(default, bool):
        return f"``{str(default).lower()}``"
    return "none" if default is None else f"``{default}``"


def _type(attribute):
    text = str(attribute.type)
    plain = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}
    if text.startswith("tuple[Mapping"):
        return "list of tables"
    if text.startswith("tuple"):
        return "list of texts"
    if text.startswith("Literal"):
        return " or ".join(f"``{word}``" for word in re.findall(r"['\"]([\w-]+)['\"]", text))
    if "Mapping" in text:
        return "table of tables"
    base, _, optional = text.partition(" | ")
    name = plain.get(base, base)
    if base == errors.ErrorCode.__name__:
        return ":doc:`error code <errors>`"
    if (known := getattr(topics, base, None)) is not None and issubclass(known, enum.StrEnum):
        name = " or ".join(f"``{member}``" for member in known)
    bounds = re.findall(r"x ([<>]=?) (\d+)", repr(attribute.validator) + str(attribute.validator))
    limits = " and ".join(dict.fromkeys(f"{sign} {number}" for sign, number in bounds))
    return ", ".join(part for part in (name, limits, "or none" if optional else "") if part)


def _fields(cls, words, where):
    known = [attribute for attribute in attrs.fields(cls) if attribute.init]
    _agree(where, words, [attribute.name for attribute in known])
    comments = _comments(cls)
    rows = []
    for attribute in known:
        why = comments.get(attribute.name, "")
        said = words[attribute.name]
        # Words after a plus sign go on where the comment ends; others say what the comment gives a reason for.
        parts = (why, said[1:].strip()) if said.startswith("+") else (said, why)
        text = " ".join(part for part in parts if part)
        rows.append((f"``{attribute.name}``", _type(attribute), _default(attribute), text))
    return _list_table(
        ("Name", "Type", "Default", "What it does, and why the default is what it is"), rows, "26 18 14 42"
    )


def _uses(pattern, *own):
    return any(re.search(pattern, path.read_text()) for path in _SOURCES if path.name not in own)


class _Written(SphinxDirective):
    has_content = False

    def lines(self):
        raise NotImplementedError

    def run(self):
        for module in (cli, closing, config, errors, topics, responses):
            self.env.note_dependency(inspect.getfile(module))
        parent = nodes.Element()
        self.state.nested_parse(
            StringList(self.lines(), source="from_code"), self.content_offset, parent, match_titles=1
        )
        return parent.children


class Settings(_Written):
    """Every setting."""

    def lines(self):
        return _fields(config.Settings, SETTINGS, "settings")


class KindOptions(_Written):
    """Every option of a kind."""

    def lines(self):
        return _fields(topics.Kind, KIND_OPTIONS, "options of kinds")


class Kinds(_Written):
    """The built-in kinds."""

    def lines(self):
        defaults = attrs.fields_dict(topics.Kind)
        rows = []
        for kind in topics.DEFAULT_KINDS:
            shape = kind.name if kind.bare else f"{kind.name}:..."
            history = f"{kind.history_messages}, {kind.history_age_seconds:g} s"
            pattern = defaults["pattern"].default
            names = "(none)" if kind.bare else "any" if kind.pattern == pattern else f"``{kind.pattern}``"
            besides = ", ".join(
                f"``{name} = {str(getattr(kind, name)).lower()}``"
                for name in ("must_exist", "drop_duplicates", "overflow", "presence")
                if getattr(kind, name) != defaults[name].default
            )
            rows.append((f"``{shape}``", names, kind.join.value, kind.publish.value, history, besides))
        return _list_table(("Topic", "Names", "Join", "Publish", "History", "Besides"), rows, "18 16 16 16 14 20")


class ErrorCodes(_Written):
    """Every error code."""

    def lines(self):
        _agree("error codes", CODES, [code.value for code in errors.ErrorCode])
        rows = []
        for code in errors.ErrorCode:
            meaning, remedy = CODES[code.value]
            if not _uses(rf"ErrorCode\.{code.name}\b", "errors.py", "responses.py"):
                meaning += " *Reserved: this version does not send it by itself.*"
            rows.append((f"``{code}``", str(responses.STATUS[code]), meaning, remedy))
        return _list_table(("Code", "HTTP", "Meaning", "Remedy"), rows, "26 8 33 33")


class CloseCodes(_Written):
    """Every close code."""

    def lines(self):
        reasons = {name: value for name, value in vars(closing).items() if isinstance(value, closing.CloseReason)}
        _agree("close codes", CLOSES, reasons)
        rows = []
        for name, reason in sorted(reasons.items(), key=lambda item: item[1].code):
            remedy = CLOSES[name]
            if not _uses(rf"\b(closing\.{name}|import .*\b{name}\b)", "closing.py"):
                remedy += " *Reserved: not sent by this version.*"
            rows.append((f"``{reason.code}``", reason.text, "yes" if reason.reconnect else "no", remedy))
        return _list_table(("Code", "Reason", "Come back?", "When, and what to do"), rows, "10 30 12 48")


class CommandLine(_Written):
    """What the commands say of themselves."""

    def lines(self):
        lines = []
        for words in ([], *([name] for name in sorted(cli.main.commands))):
            text = CliRunner().invoke(cli.main, [*words, "--help"], prog_name="realtime").output
            title = " ".join(["realtime", *words])
            lines += [title, "~" * len(title), "", "::", "", *(f"   {line}" for line in text.splitlines()), ""]
        return lines


class BenchmarkResults(SphinxDirective):
    """The tables that ``python -m benchmarks --markdown FILE`` wrote, if they are there."""

    required_arguments = 1

    def run(self):
        path = Path(self.env.doc2path(self.env.docname)).parent / self.arguments[0]
        self.env.note_dependency(str(path))
        if path.exists():
            lines = _from_markdown(path.read_text())
        else:
            lines = ["*This copy of the documentation was built without figures.* Run the command above to get yours."]
        parent = nodes.Element()
        self.state.nested_parse(StringList(lines, source=str(path)), self.content_offset, parent)
        return parent.children


def _from_markdown(text):
    """Headings, tables, lists and paragraphs: as much Markdown as the benchmarks write."""
    lines, table = [], []
    for source in [*text.splitlines(), ""]:
        line = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", source)
        if line.startswith("|"):
            cells = [cell.strip().replace("*", r"\*") for cell in line.strip("|").split("|")]
            table.append([r"\-" if cell == "-" else cell for cell in cells])
            continue
        if table:
            rows = [row for row in table if not all(re.fullmatch(r":?-{3,}:?", cell) for cell in row)]
            lines += ["", *_list_table(rows[0], rows[1:], "auto")]
            table = []
        if line.startswith("#"):
            lines += ["", f".. rubric:: {line.lstrip('# ')}", ""]
        else:
            lines.append(line)
    return lines


def _show_defaults(_app, _what, _name, thing, _options, signature, returns):
    """Write the defaults of an attrs class into its signature, where the source only has words of attrs' own."""
    if not (signature and inspect.isclass(thing) and attrs.has(thing)):
        return None
    for attribute in attrs.fields(thing):
        name = attribute.alias
        signature = re.sub(
            rf"(\b{name}(?:: [^=]*)? = )(?:attr_dict\['{attribute.name}'\]\.default|NOTHING)",
            lambda match, default=attribute.default: match[1] + _value(default),
            signature,
        )
    return signature, returns


def _value(default):
    value = default.factory() if isinstance(default, attrs.Factory) else default
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    return f"{type(value).__name__}()" if attrs.has(type(value)) else repr(value)


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", _show_defaults)
    app.add_directive("settings-table", Settings)
    app.add_directive("kind-options-table", KindOptions)
    app.add_directive("kinds-table", Kinds)
    app.add_directive("error-codes-table", ErrorCodes)
    app.add_directive("close-codes-table", CloseCodes)
    app.add_directive("command-line", CommandLine)
    app.add_directive("benchmark-results", BenchmarkResults)
    return {"version": "1", "parallel_read_safe": True}
