"""How the documentation is built."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from realtime import __version__

project = "trio-realtime"
author = "The trio-realtime authors"
release = __version__
version = __version__

extensions = ["sphinx.ext.autodoc", "from_code"]
exclude_patterns = ["_build", "examples"]
# Docstrings put names in single backticks, which then read as code and promise no link.
default_role = "literal"
highlight_language = "none"

html_theme = "furo"
html_title = f"trio-realtime {version}"
html_show_copyright = False

toc_object_entries = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True

nitpicky = True
# Other projects' names; the build works without a network, so it has no inventory of theirs.
nitpick_ignore_regex = [
    ("py:.*", r"(trio|msgspec|httpx|hypercorn|collections\.abc|contextlib|pathlib|ssl|enum|abc)\..*"),
    ("py:.*", r"(ASGIFramework|Path|Mapping|Callable|Awaitable|AsyncIterator|AbstractAsyncContextManager|Raw|Struct)"),
    # Names of ours that are read in the source, not on the reference page.
    ("py:.*", r"(realtime\.)?(\w+\.){0,2}(Changes|ErrorCode|Kinds|Hub|Ingress|Page|Authenticate|Authorize|Decision)"),
    ("py:.*", r"(realtime\.\w+\.)?(DescribedAction|Publish|Receipts|Subscribe|Token|MemoryLink)"),
    # Type variables.
    ("py:.*", r"(realtime\.\w+\.)?(Feed|Handler|Result|_Function|M|P)"),
]
