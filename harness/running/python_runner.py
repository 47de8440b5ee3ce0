"""Runs a Python candidate over job folders: `python -m THIS_MODULE MODULE JOB_DIR OUT_DIR [JOB_DIR OUT_DIR …]`.

MODULE is `package.module` or `path/to/file.py`. The exit status is 0 if the cases were run, 1 if the candidate refused
the job, 2 if it could not be loaded; every case has a result.json then, and each says its own status. It is 2 as well
for a job.json that cannot be read, which nobody can answer.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
import traceback
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from grok_conformance.harness.cases.case import tap_key
from grok_conformance.harness.cases.reruns import Rerun, reruns_named
from grok_conformance.harness.contract import Array, CandidateInfo, LanguageModelConfig, Unsupported, select_taps
from grok_conformance.harness.formats.files import FileError, write_json
from grok_conformance.harness.formats.suggestions import unknown
from grok_conformance.harness.formats.tensors import TensorFile, digest, open_tensors, write_tensors
from grok_conformance.harness.running.answers import DEQUANTIZED, LOADED
from grok_conformance.harness.running.info import unknown_tap
from grok_conformance.harness.running.jobs import Job, JobCase, read_config, read_job
from grok_conformance.harness.running.own_frames import place_of
from grok_conformance.harness.running.program_files import write_program_files

MAX_TRACEBACK = 4000
MAX_SHOWN_BYTES = 2**30

REFUSED, FAILED = 1, 2

FPROP_DTYPES = ("float32", "bfloat16")
"""The compute dtypes of the cases, and hence of a candidate."""


def main(module: str, job_dir: Path, out_dir: Path, *, anew: bool = False) -> int:
    """Run a candidate module over a job folder, write the answers, and return the exit status.

    What the module keeps from one job to the next stays, unless it is to be imported `anew`.
    """
    try:
        job = read_job(job_dir)
    except FileError as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    out_dir.mkdir(parents=True, exist_ok=True)
    try:
        candidate = import_candidate(module, anew=anew)
        info = info_of(candidate, module)
        write_json(out_dir / "info.json", asdict(info), lasting=False)
        if job.fprop_dtype not in info.fprop_dtypes:
            raise Unsupported(f"fprop_dtype {job.fprop_dtype}; it runs {', '.join(info.fprop_dtypes)}")
        config = read_config(job_dir)
        weights = open_tensors(job_dir / "weights.safetensors")
        model = load_model(candidate, config, weights)
        show_weights(candidate, model, config, weights, out_dir)
    except ModuleNotFoundError as error:
        return _refuse(out_dir, job, Unsupported(f"needs {error.name}, which is not installed"))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the candidate does is an answer
        return _refuse(out_dir, job, error)
    run_cases(model, job, job_dir, info.taps, out_dir)
    write_program_files(out_dir)
    return 0


def run_cases(model: Any, job: Job, job_dir: Path, declared: Collection[str], out_dir: Path) -> None:
    """Run every case of a job, then those that were answered once more in reverse order; write the answers."""
    first: dict[str, Mapping[str, str]] = {}
    for case in job.cases:
        folder = out_dir / case.folder
        folder.mkdir(exist_ok=True)
        try:
            result, first[case.id] = run_case(model, case, open_tensors(job_dir / case.inputs), declared, folder)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the candidate does is an answer
            result = _failure(error)
        write_json(folder / "result.json", result, lasting=False)
    for case in reversed([case for case in job.cases if case.id in first]):
        for rerun in reruns_named(case.reruns, after_all=True):
            folder, said = out_dir / case.folder, out_dir / case.folder / f"{rerun.name}.json"
            write_json(said, {"status": "begun"}, lasting=False)
            try:
                inputs = open_tensors(job_dir / case.inputs)
                result = {"digests": run_again(model, case, inputs, declared, folder, rerun, first[case.id])}
                result = {"status": "answered", **result}
            except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the candidate does is an answer
                result = _failure(error)
            write_json(said, result, lasting=False)


def import_candidate(module: str, *, anew: bool = True) -> ModuleType:
    """Import a candidate, `package.module` or a file ending in .py, which may import the files beside it.

    A file is imported `anew`, since it or one beside it may have changed, or once in a process.
    """
    if not module.endswith(".py"):
        return importlib.import_module(module)
    path = Path(module).resolve()
    name = f"candidate_{path.stem}"
    if not anew and name in sys.modules and vars(sys.modules[name]).get("__file__") == str(path):
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise ImportError(f"{path} cannot be imported")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    sys.path.insert(0, str(path.parent))
    # Not by its loader: bytecode of a file that was edited within the same second, at the same length, would be taken.
    exec(compile(path.read_bytes(), str(path), "exec"), vars(loaded))  # noqa: S102 - the candidate is to be run
    return loaded


def show_weights(
    candidate: ModuleType, model: Any, config: LanguageModelConfig, weights: TensorFile, out_dir: Path
) -> None:
    """Write what the optional hooks of a candidate return: weights.safetensors and partition_specs.json.

    Of larger models no weights are shown: they would be written to disk once more. Raises what the candidate raises.
    """
    shown = shown_weights(candidate, model, weights) if weights.num_bytes <= MAX_SHOWN_BYTES else {}
    if shown:
        write_tensors(out_dir / "weights.safetensors", shown, lasting=False)
    if hasattr(candidate, "partition_specs"):
        specs = candidate.partition_specs(config)
        write_json(out_dir / "partition_specs.json", {name: list(spec) for name, spec in specs.items()}, lasting=False)


def shown_weights(candidate: Any, model: Any, weights: Mapping[str, Array]) -> dict[str, Array]:
    """Return the weights that a model gives back, and what the candidate makes of int8 ones; see `answers.LOADED`."""
    shown: dict[str, Array] = {}
    if hasattr(model, "loaded_weights"):
        shown |= {LOADED + name: np.array(value) for name, value in model.loaded_weights().items()}
    if hasattr(candidate, "dequantize"):
        names = [name.removesuffix(".scales") for name in weights if name.endswith(".scales")]
        parts = {name: [np.array(weights[f"{name}.{part}"]) for part in ("weight", "scales")] for name in names}
        shown |= {DEQUANTIZED + name: np.array(candidate.dequantize(*parts[name])) for name in names}
    return shown


def run_case(
    model: Any, case: JobCase, inputs: Mapping[str, Array], declared: Collection[str], folder: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """Run a case tapped, and make its reruns that are made at once; return its result.json and its taps' digests.

    Raises what the candidate raises.
    """
    taps = select_taps(case.taps, declared)
    began = time.perf_counter()
    shown = run_calls(model, case, inputs, [taps] * len(case.calls))
    seconds = time.perf_counter() - began
    write_tensors(folder / "taps.safetensors", shown, lasting=False)
    first = {key: digest(array) for key, array in shown.items()}
    del shown
    reruns = {
        rerun.name: run_again(model, case, inputs, declared, folder, rerun, first)
        for rerun in reruns_named(case.reruns, after_all=False)
    }
    return {"status": "answered", "seconds": seconds, "reruns": reruns}, first


def run_again(
    model: Any,
    case: JobCase,
    inputs: Mapping[str, Array],
    declared: Collection[str],
    folder: Path,
    rerun: Rerun,
    first: Mapping[str, str],
) -> dict[str, str]:
    """Make a rerun and return the sha256 of its taps; they are written only where one differs from the first run's."""
    shown = select_taps(case.taps, declared)
    taps = [select_taps(shown, patterns) for patterns in rerun.taps_by_call(len(case.calls))]
    wanted = {tap_key(call, tap) for call, each in enumerate(taps) for tap in each}
    found = {key: x for key, x in run_calls(model, case, inputs, taps).items() if key in wanted}
    digests = {key: digest(array) for key, array in found.items()}
    if any(first.get(key) != digests[key] for key in digests):
        write_tensors(folder / f"{rerun.name}.safetensors", found, lasting=False)
    return digests


def run_calls(
    model: Any, case: JobCase, inputs: Mapping[str, Array], taps: Sequence[tuple[str, ...]]
) -> dict[str, Array]:
    """Make the calls of a case from a fresh state, `taps` recorded in each; both sides may reuse their arrays: copy."""
    if case.preload:
        _method(model, "preload")(*(np.array(inputs[f"preload/{name}"]) for name in ("keys", "values", "steps")))
    answers: dict[str, Array] = {}
    for index, kind in enumerate(case.calls):
        tokens, lengths = (np.array(inputs[tap_key(index, name)]) for name in ("tokens", "lengths"))
        called = kind
        if kind == "truncate":
            _method(model, kind)(np.array(inputs[tap_key(index, "steps")]))
            called = "decode" if tokens.shape[1] == 1 and (lengths == 1).all() else "extend"
        arguments = (tokens,) if called == "decode" else (tokens, lengths)
        returned = _method(model, called)(*arguments, taps[index])
        if not isinstance(returned, Mapping):
            raise TypeError(
                f"{kind} returned {type(returned).__name__}, expected {{tap: array}}: return the wanted taps"
            )
        answers |= {tap_key(index, tap): as_array(f"{kind}: {tap}", value) for tap, value in returned.items()}
    return answers


def as_array(where: str, value: Any) -> Array:
    """Copy what a candidate returned for a tap: an array, a torch tensor, or whatever NumPy takes for one.

    Raises TypeError, with the cure, for a value that is none.
    """
    if type(value).__module__.partition(".")[0] == "torch":
        from grok_conformance.harness.contract.attach import to_numpy  # noqa: PLC0415 - imports torch, which is there

        return to_numpy(value)
    try:
        array: Array = np.array(value)
    except ValueError:
        raise TypeError(f"{where}: rows of unequal lengths are no array: pad them") from None
    if array.dtype == object and isinstance(value, np.ndarray):
        raise TypeError(f"{where}: an array of Python objects: give it a dtype, such as x.astype(np.float32)")
    if array.dtype == object:
        raise TypeError(f"{where}: {type(value).__name__} is no array: return a NumPy array or a tensor")
    return array


def load_model(candidate: Any, config: LanguageModelConfig, weights: Mapping[str, Array]) -> Any:
    """Return the model that a candidate loads; raises TypeError for what is none, and what the candidate raises."""
    model = candidate.load(config, weights)
    if model is None:
        raise TypeError("load(config, weights) returned None: end it with `return model`")
    if not hasattr(model, "prefill"):
        raise TypeError(
            f"load(config, weights) returned {type(model).__name__}, which has no prefill(): return a model"
        )
    return model


def _method(model: Any, name: str) -> Any:
    method = getattr(model, name, None)
    if method is None:
        raise Unsupported(f"the model has no {name}()")
    return method


def info_of(candidate: Any, module: str) -> CandidateInfo:
    """Return what a candidate says of itself; raises TypeError or ValueError, with the cure, for what cannot be."""
    info = getattr(candidate, "INFO", None)
    if not isinstance(info, CandidateInfo) or not callable(getattr(candidate, "load", None)):
        raise TypeError(f"{module} must have INFO = CandidateInfo(…) and load(config, weights)")
    for name in ("taps", "fprop_dtypes"):
        value = getattr(info, name)
        if isinstance(value, str):
            raise TypeError(f"INFO: {name}={value!r} is one string, expected several: write {name}=({value!r},)")
    for dtype in info.fprop_dtypes:
        if dtype not in FPROP_DTYPES:
            raise ValueError(f"INFO: fprop_dtypes: {unknown('compute dtype', dtype, FPROP_DTYPES)}")
    for field in ("taps", "dtypes", "quantised"):
        if told := unknown_tap(getattr(info, field)):
            raise ValueError(f"INFO in {Path(module).name}: {field}: {told}")
    return info


def _refuse(out_dir: Path, job: Job, error: BaseException) -> int:
    result = _failure(error)
    for case in job.cases:
        (out_dir / case.folder).mkdir(exist_ok=True)
        write_json(out_dir / case.folder / "result.json", result, lasting=False)
    sys.stderr.write(f"{result['status']}: {result['reason']}\n")
    return REFUSED if isinstance(error, Unsupported) else FAILED


def _failure(error: BaseException) -> dict[str, Any]:
    """Return the result.json of a case that was not answered, with the place where the candidate failed."""
    if isinstance(error, Unsupported):
        return {"status": "unsupported", "reason": str(error) or "it gave no reason: raise Unsupported(reason)"}
    place = place_of(traceback.extract_tb(error.__traceback__))
    text = "".join(traceback.format_exception(error))
    return {
        "status": "error",
        "reason": f"{type(error).__name__}: {error}{place}",
        "traceback": text[-MAX_TRACEBACK:],
    }


if __name__ == "__main__":
    module, *folders = sys.argv[1:] or [""]
    if not folders or len(folders) % 2:
        sys.exit(f"usage: python -m {__spec__.name} MODULE JOB_DIR OUT_DIR [JOB_DIR OUT_DIR …]")
    sys.exit(max(main(module, Path(job), Path(out)) for job, out in zip(folders[::2], folders[1::2], strict=True)))
