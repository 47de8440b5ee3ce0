"""Sessions: `nox -s conformance` is the main job, `nox -s tests` the tests; arguments after `--` are passed on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["conformance", "tests", "lint", "types"]

TESTED = ("--constraint", "constraints.txt")
GROUPS = nox.project.load_toml("pyproject.toml")
BENCHED = ("jax_grouped", "jax_grouped_dequantized", "llama_cpp", "reference", "torch_compiled", "torch_eager")
PEERS = ("--peer", "tests/benchmarks/llama_cpp_q8_0.py")
BENCHED_WHERE_INSTALLABLE = ("iree", "mlx", "onnx_runtime")
ONE_LAYER = ("jax_grouped", "llama_cpp", "torch_compiled")
"""Who is measured on one layer of full size: with their weights as wide as they keep them, pairs fit into 23 GB."""
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Of a library that computes: more would only wait for one another, which seconds of the processor count too."""
EXTRAS = nox.project.load_toml("candidates/extras.toml")

if "PIP_FIND_LINKS" in os.environ:  # uv does not read pip's variable, through which CPU wheels of torch may come
    os.environ.setdefault("UV_FIND_LINKS", os.environ["PIP_FIND_LINKS"].replace(" ", ","))


def compiled_once(session: nox.Session) -> dict[str, str]:
    """Return the environment in which JAX and Python keep what they compile, beside the session's virtual environment.

    Python too where it is told to write no bytecode, as in many containers: importing torch takes twice as long then.
    """
    return {
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(session.cache_dir / "bytecode"),
        "JAX_COMPILATION_CACHE_DIR": str(session.cache_dir / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


@nox.session
def conformance(session: nox.Session) -> None:
    """Judge the built-in candidates, or those named after `--candidate`.

    Without arguments verdicts of the last 12 hours are reused where nothing has changed; `-- --fresh` judges all again.
    """
    extras = {"reference", "torch"} | {needs["extra"] for name, needs in EXTRAS.items() if _is_named(name, session)}
    _install_once(session, *TESTED, "--editable", f".[{','.join(sorted(extras))}]")
    words = session.posargs or ["--reuse"]
    session.run("python", "-m", "grok_conformance", "run", *words, env=compiled_once(session))


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests; `-- --thorough` runs the long profiles too."""
    session.install(*TESTED, "--editable", ".[llama-cpp,reference,torch]", *_group("tests"))
    workers = ("-n", "logical", "--maxprocesses", "4")
    limit = ("--timeout", "900") if "--thorough" in session.posargs else ()  # one test compiles forty models
    environment = compiled_once(session) | ONE_THREAD
    session.run("python", "-m", "pytest", *workers, *limit, *session.posargs, env=environment)


@nox.session
def mutation(session: nox.Session) -> None:
    """Measure how good the harness is, by known faults, impostors and honest runs: tests/fault_detection/RATES.md."""
    session.install(*TESTED, "--editable", ".[reference,torch]", *_group("tests"))
    session.run("python", "-m", "tests.fault_detection", *session.posargs, env=compiled_once(session))


@nox.session
def noise(session: nox.Session) -> None:
    """Judge every honest variant, and write what the noise model allows and how far they go: golden/v1/noise.json."""
    session.install(*TESTED, "--editable", ".[reference,torch]", *_group("tests"))
    session.run("python", "-m", "tests.fault_detection.noise_record", *session.posargs, env=compiled_once(session))


@nox.session
@nox.parametrize(
    ("python", "jax"), [("3.11", "0.10"), ("3.12", "0.10"), ("3.12", "0.11"), ("3.12", "0.12"), ("3.13", "0.12")]
)
def compat(session: nox.Session, jax: str) -> None:
    """Run the tests that need no torch on every supported Python and JAX."""
    session.install("--editable", ".[reference]", f"jax=={jax}.*", f"jaxlib=={jax}.*", *_group("tests"))
    session.run("python", "-m", "pytest", *(session.posargs or ["tests/harness", "tests/reference"]))


@nox.session
def c_port(session: nox.Session) -> None:
    """Build the port in C with the system's compiler, and judge it."""
    if missing := [tool for tool in ("make", "cc") if shutil.which(tool) is None]:
        session.error(f"no {missing[0]} here: install make and a C compiler (Debian: apt-get install build-essential)")
    session.install(*TESTED, "--editable", ".")
    session.run("make", "-C", "candidates/c_port", external=True)
    session.run("python", "-m", "grok_conformance", "run", "--candidate", "build/c_port", *session.posargs)


@nox.session
def new_user(session: nox.Session) -> None:
    """Take the time from nothing to a verdict on a port of one's own, of its author's loop, and of the main job."""
    session.install(*TESTED, "--editable", ".[torch]", *_group("tests"))
    files = [f"tests/new_user/{name}.py" for name in ("first_verdict", "main_job", "author_loop")]
    session.run("python", "-m", "pytest", *(session.posargs or files), env=compiled_once(session))


@nox.session
def browser(session: nox.Session) -> None:
    """Click through a report in headless Chromium and leave screenshots in `build/`; needs chromium installed."""
    session.install(*TESTED, "--editable", ".[reference,torch]", *_group("tests"), *_group("browser"))
    session.run("python", "-m", "pytest", *(session.posargs or ["tests/browser/page_in_chromium.py"]))


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site of `docs/` in `build/site`, one that needs no network."""
    session.install(*TESTED, *_group("docs"))
    session.run("mkdocs", "build", "--strict")


@nox.session
def screenshot(session: nox.Session) -> None:
    """Make the README's picture of a report, `harness/report/first_screen.png`; needs chromium installed."""
    session.install(*TESTED, "--editable", ".[reference,torch]", *_group("tests"), *_group("browser"))
    command = ("python", "-m", "pytest", "tests/browser/page_in_chromium.py", "-k", "first_screen")
    session.run(*command, env={"SCREENSHOTS": "harness/report"})


@nox.session
def bench(session: nox.Session) -> None:
    """Measure throughput, into README.md and RESULTS.md, and what the harness costs; `-- --gate`: its limits only."""
    session.install(*TESTED, "--editable", ".[llama-cpp,reference,torch]", *_group("tests"))
    environment = compiled_once(session)
    harness = ("-p", "no:xdist", "-o", "python_files=bench_*.py", "tests/benchmarks")
    if "--gate" in session.posargs:
        session.run("python", "-m", "pytest", *harness, "-m", "gate", env=environment)
        return
    report = "build/bench/conformance.json"
    Path(report).parent.mkdir(parents=True, exist_ok=True)
    measured = (*BENCHED, *_installable(session, BENCHED_WHERE_INSTALLABLE), "tests/benchmarks/published_style.py")
    judged = [word for name in measured for word in ("--candidate", name)]
    limits = ("--time-limit", "900", "--quiet", "--json", report)
    session.run("python", "-m", "grok_conformance", "run", *judged, *limits, env=environment, success_codes=[0, 1])
    throughput = ("python", "-m", "tests.benchmarks.throughput", "--write", "--conformance", report)
    session.run(*throughput, *PEERS, *session.posargs, env=environment)
    large = ("--load", "grok-1-layer", "--pairs", *PEERS, "--dtype", "bfloat16", "--rounds", "3")
    beside = [word for name in ONE_LAYER for word in ("--candidate", name)]
    session.run(*throughput, *large, *beside, env=environment)
    session.run(*throughput, "--sweep", "--candidate", "jax_grouped", "--rounds", "5", env=environment)
    session.run("python", "-m", "pytest", *harness, "--write", env=environment)
    session.run("python", "-m", "tests.benchmarks.scaling", "--write", env=environment | ONE_THREAD)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests and hold the lines and branches that they reach, in child processes too, to a limit.

    Apart from `tests`, since measuring takes twice their time.
    """
    session.install(*TESTED, "--editable", ".[llama-cpp,reference,torch]", *_group("tests"))
    workers = ("-n", "logical", "--maxprocesses", "4", "--timeout", "600")
    environment = compiled_once(session) | ONE_THREAD
    session.run("python", "-m", "pytest", *workers, "--cov", "--cov-report", "term", *session.posargs, env=environment)


@nox.session
def mutants(session: nox.Session) -> None:
    """Put small faults into the code that decides, and see its tests fail; writes tests/code_mutants/SCORES.md."""
    session.install(*TESTED, "--editable", ".", *_group("tests"))
    session.run("python", "-m", "tests.code_mutants", *session.posargs)


@nox.session
def robustness(session: nox.Session) -> None:
    """Corrupt all that is read, run hostile candidates, kill commands and let disks fail."""
    session.install(*TESTED, "--editable", ".[reference,torch]", *_group("tests"))
    session.run("python", "-m", "pytest", "tests/robustness", "--thorough", "--timeout", "900", *session.posargs)


@nox.session
def large(session: nox.Session) -> None:
    """Judge two layers of full size, and find a fault in one expert; needs `-- --checkpoint DIR`."""
    session.install(*TESTED, "--editable", ".[reference]")
    session.run("python", "-m", "tests.conformance.large_local", *session.posargs)


@nox.session(python="3.12")
def gpu_rehearsal(session: nox.Session) -> None:
    """Run what a GPU is to show, dry: with the versions of a machine that has one, and carried wheels (tests/gpu).

    Where no CPU wheel of torch 2.11 is at hand, torch brings 3 GB of CUDA libraries along, as it does on that machine.
    """
    session.install("jax==0.11.*", "jaxlib==0.11.*", "numpy==2.5.*", "torch==2.11.*", "pip", "pytest", "rich")
    wheels = Path("build") / "gpu" / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    download = ("python", "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), *TESTED)
    session.run(*download, "absl-py", "dm-haiku", "fastjsonschema", "jmp", "tabulate")
    rehearsal = ("python", "-m", "tests.gpu.session", "--cpu", "--wheels", str(wheels))
    session.run(*rehearsal, *(session.posargs or ("--budget", "3600")))


@nox.session
@nox.parametrize(("python", "jax"), [("3.11", "0.10"), ("3.12", "0.12")])
def recapture(session: nox.Session, jax: str) -> None:
    """Capture the golden set twice, on the oldest and the newest JAX: equal digests, and within fences of the set."""
    session.install("--editable", ".[reference]", f"jax=={jax}.*", f"jaxlib=={jax}.*")
    folder = Path(session.create_tmp())
    digests = []
    for name in ("first", "second"):
        shutil.rmtree(folder / name, ignore_errors=True)
        session.run(
            "python", "-m", "grok_conformance", "capture", "--out", str(folder / name), env=compiled_once(session)
        )
        manifest = json.loads((folder / name / "manifest.json").read_text())
        digests.append({**manifest["presets"], **manifest["cases"]})
    if changed := [key for key, first in digests[0].items() if digests[1].get(key) != first]:
        session.error(f"{changed[0]}: other digests when captured again; {len(changed)} of {len(digests[0])} differ")
    session.log(f"{len(digests[0])} presets and cases: equal digests")
    session.run("python", "-m", "grok_conformance", "diff", "golden/v1", str(folder / "first"))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting and the arrows between the packages."""
    session.install(*TESTED, *_group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--diff")
    session.run("lint-imports", env={"PYTHONPATH": "."})


@nox.session
def types(session: nox.Session) -> None:
    """Check the types strictly."""
    session.install(
        *TESTED, "--editable", ".[llama-cpp,reference,torch]", *_group("tests"), *_group("types"), *_group("browser")
    )
    session.run("mypy", *session.posargs)


def _install_once(session: nox.Session, *words: str) -> None:
    """Install what a session needs, unless the same is in its environment: building this package takes a second."""
    told = "\n".join([*words, *(Path(name).read_text() for name in ("pyproject.toml", "constraints.txt"))])
    wanted = hashlib.sha256(told.encode()).hexdigest()
    installed = Path(session.env_dir, "installed.sha256")
    if installed.is_file() and installed.read_text() == wanted:
        return
    installed.unlink(missing_ok=True)
    session.install(*words)
    # As a command, since nox passes over one that installs where it is asked to install nothing.
    session.run_install("python", "-c", f"open({str(installed)!r}, 'w').write({wanted!r})", log=False)


def _installable(session: nox.Session, candidates: tuple[str, ...]) -> list[str]:
    """Install the extras of candidates, and return whose could be installed; says which is left out."""
    installed = []
    for name in candidates:
        extra = EXTRAS[name]["extra"]
        try:
            session.install(*TESTED, "--editable", f".[{extra}]")
        except CommandFailed:
            session.warn(f"{name}: left out: the extra {extra} cannot be installed on this machine")
        else:
            installed.append(name)
    return installed


def _is_named(candidate: str, session: nox.Session) -> bool:
    """Return whether an argument names a candidate: `--candidate NAME`, `--require NAME:LEVEL`, or with `=`."""
    return any(candidate == word.rpartition("=")[2].partition(":")[0] for word in session.posargs)


def _group(name: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(GROUPS, name)
