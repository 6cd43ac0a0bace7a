"""The project's checks. ``nox`` alone runs what every commit must pass; ``nox -l`` lists the rest."""

import shutil
import sys
import tempfile
from pathlib import Path

import nox

nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_external_run = True
nox.options.sessions = ["lint", "types", "tests", "docs"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
PACKAGES = ["realtime", "transports"]


def group(name: str) -> list[str]:
    """The requirements of one dependency group."""
    return list(nox.project.dependency_groups(PYPROJECT, name))


@nox.session
def lint(session: nox.Session) -> None:
    """Style, import rules, and what only flake8-async sees."""
    session.install(*group("lint"))
    session.install("--no-deps", "-e", ".")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", *PACKAGES, "tests", "noxfile.py")
    sources = [str(path) for package in PACKAGES for path in sorted(Path(package).rglob("*.py"))]
    # Left out: what our ports and Quart's handlers must be (async, with task_status), deadlines that are data,
    # the successor of httpx (127), which is to prove itself first, and the optional rules.
    left_out = "ASYNC109,ASYNC114,ASYNC124,ASYNC127,ASYNC128,ASYNC9"
    session.run("flake8-async", "--enable=ASYNC", f"--disable={left_out}", *sources)
    session.run("lint-imports", "--no-cache")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types."""
    session.install("-e", ".", *group("types"))
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """Tests with branch coverage, on the Python that runs nox."""
    session.install("-e", ".", *group("test"))
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session(python=PYTHONS)
def versions(session: nox.Session) -> None:
    """Tests on every supported Python that is installed."""
    session.install("-e", ".", *group("test"))
    session.run("pytest", *session.posargs)


@nox.session
def e2e(session: nox.Session) -> None:
    """Whole processes and foreign clients: Node, curl, Chromium."""
    session.install("-e", ".", *group("test"))
    session.run("pytest", "tests/e2e", *session.posargs)


@nox.session
def clients(session: nox.Session) -> None:
    """The browser client: its tests in Node and Chromium, its types, its size; and React. Needs Node 20 and npm."""
    session.install("-e", ".")
    session.chdir("clients/js")
    python = str(Path(session.virtualenv.location) / "bin" / "python")
    session.run("npm", "test", env={"REALTIME_PYTHON": python}, external=True)
    session.run("npm", "run", "types", external=True)
    session.chdir("../../docs/examples/javascript/react")
    session.run("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", external=True)
    session.run("npm", "test", env={"REALTIME_PYTHON": python}, external=True)


@nox.session
def schemathesis(session: nox.Session) -> None:
    """A running server held against its own OpenAPI document, in about two minutes."""
    session.install("-e", ".", "schemathesis>=4,<5")
    session.run("python", "tests/conformance/http_api.py")


@nox.session(reuse_venv=False)
def audit(session: nox.Session) -> None:
    """What the product brings along, held against PyPI's advisories; needs the network."""
    session.install("-e", ".")
    frozen = session.run("python", "-m", "pip", "freeze", "--exclude-editable", silent=True)
    session.install("pip-audit>=2.9,<3")
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(str(frozen))
        # Strict: what the service knows nothing of would count as good.
        session.run("pip-audit", "--strict", "--disable-pip", "--no-deps", "-r", str(requirements))


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, with warnings as errors; its examples are among the tests."""
    session.install("-e", ".", *group("docs"))
    session.run("sphinx-build", "-W", "-n", "--keep-going", "-q", "-b", "html", "docs", "docs/_build/html")
    session.run("towncrier", "build", "--draft", "--version", "next", silent=True)


@nox.session
def bench(session: nox.Session) -> None:
    """Benchmarks side by side with peers; ``nox -s bench -- --smoke`` for a quick look."""
    session.install("-e", ".", "-r", "benchmarks/requirements.txt")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def smoke(session: nox.Session) -> None:
    """A cheap run of the benchmarks: nothing lost, nothing doubled."""
    session.install("-e", ".")
    session.run("python", "-m", "benchmarks", "--smoke", "--peers", "ours")


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel and start the program from it, away from the source tree."""
    session.install("build")
    with tempfile.TemporaryDirectory() as folder:
        session.run("python", "-m", "build", "--wheel", "--outdir", folder, silent=True)
        (built,) = Path(folder).glob("*.whl")
        session.run("python", "-m", "venv", f"{folder}/venv")
        python = f"{folder}/venv/bin/python"
        session.run(python, "-m", "pip", "install", "-q", str(built), external=True)
        session.chdir(folder)
        session.run(python, "-m", "realtime", "--version", external=True)
        # Reads the page and the browser client, which have to be in the wheel.
        files = "from realtime import Settings; from transports.http.pages import make_pages; make_pages(Settings())"
        session.run(python, "-c", files, external=True)


@nox.session
def clean(session: nox.Session) -> None:
    """Remove what the other sessions left."""
    for name in ("docs/_build", ".coverage", "build", "dist"):
        shutil.rmtree(name, ignore_errors=True)
    session.log(f"cleaned, by Python {sys.version_info.major}.{sys.version_info.minor}")
