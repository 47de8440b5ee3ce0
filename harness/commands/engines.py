"""What `new-candidate --engine` adds to the template: conversions both ways, and a line for every tap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from grok_conformance.harness.contract import LOGITS
from grok_conformance.harness.contract.taps import tap_specs


@dataclass(frozen=True)
class Engine:
    """The import of an engine, and its conversions from and to NumPy, bfloat16 bit for bit."""

    imports: str
    conversions: str


ENGINES: Mapping[str, Engine] = {
    "numpy": Engine("", ""),
    "torch": Engine(
        "import ml_dtypes\nimport torch\n",
        '''
def to_torch(x: Array) -> torch.Tensor:
    """Return a stored array as a tensor; torch reads the bits of bfloat16, which NumPy knows through ml_dtypes."""
    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(np.array(x).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.array(x))


def to_numpy(x: torch.Tensor) -> Array:
    """Return a tensor as an array, whatever its device and dtype."""
    x = x.detach().cpu().contiguous()
    return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if x.dtype == torch.bfloat16 else x.numpy()

''',
    ),
    "jax": Engine(
        "import jax\nimport jax.numpy as jnp\n",
        '''
def to_jax(x: Array) -> jax.Array:
    """Return a stored array as an array of JAX."""
    return jnp.asarray(x)


def to_numpy(x: jax.Array) -> Array:
    """Return an array of JAX in NumPy."""
    return np.asarray(x)

''',
    ),
}
"""What can follow `--engine`."""

AXES = '    TapSource("logits", engine="logits", axes="b t v"),\n'


def written_for(template: str, engine: str) -> str:
    """Return the template with an engine's conversions, and a line for each tap, to be uncommented one by one."""
    made = ENGINES[engine]
    rows = "".join(
        f'    # TapSource("{spec.name}", engine="{spec.name.replace("*", "{layer}")}", axes="{" ".join(spec.axes)}"),\n'
        for spec in tap_specs()
        if spec.name != LOGITS
    )
    before, first, rest = template.partition(AXES)
    text = before + first + rows + rest[rest.index("\n)\n") + 1 :]  # in place of the template's one example
    text = text.replace("import numpy as np\n", f"import numpy as np\n{made.imports}", 1)
    return text.replace("\ndef build_engine(", f"{made.conversions}\ndef build_engine(", 1)
