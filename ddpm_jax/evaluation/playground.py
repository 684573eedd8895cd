"""The playground: a page on which the exact denoisers run live in a browser, beside a trained network.

The page is `docs/play/` of the repository, plain scripts that need no network connection, and a wheel installs that
folder as `ddpm_jax/evaluation/play`. Its mathematics follows `diffusion/`; `tests/test_playground.py` compares the two.
"""

import base64
import html
import json
import re
import sys
import webbrowser
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from ddpm_jax import factory
from ddpm_jax.data.digits import MAX_LEVEL, Digits
from ddpm_jax.diffusion.schedules import NoiseSchedule
from ddpm_jax.errors import UserError
from ddpm_jax.factory.models import Params
from ddpm_jax.models import Architecture, UNet
from ddpm_jax.runs.run import Run
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.storage import check_writable, write_whole

_HERE = Path(__file__).parent
_FOLDERS = (_HERE / "play", _HERE.parents[1] / "docs" / "play")  # in an installed wheel; in a clone
FOLDER = next((folder for folder in _FOLDERS if folder.is_dir()), _FOLDERS[0])
SIDE = 8  # pixels
_SCRIPT = re.compile(r'<script src="([\w.]+)"></script>')
_STYLE = '<link rel="stylesheet" href="style.css">'
_ON_DEMAND = ' data-network="network.js"'  # what of the page says that this file lies beside it


class Playground:
    """The page, which a notebook shows below its cell.

    Attributes:
      run: the run whose network the page shows beside the exact answer, or None.

    Raises:
      UserError: the network is not one that the page can evaluate.
    """

    def __init__(self, run: Run | None = None) -> None:
        if run is not None:
            check_playable(run)
        self.run = run

    def page(self) -> str:
        """Returns the page as the text of one file that needs no other; it has a network only if a run is given."""
        text = _file("index.html").replace(_ON_DEMAND, "").replace(_STYLE, f"<style>\n{_file('style.css')}</style>")
        network = "" if self.run is None else f"<script>\n{script_of_run(self.run)}</script>\n"
        scripts = _SCRIPT.sub(lambda found: f"<script>\n{_file(found[1])}</script>", text)
        return scripts.replace("<!-- network -->", network)

    def open(self) -> str:
        """Opens the page in a browser; that of a run is written to `WORKDIR/evaluation/playground.html` first.

        Returns:
          The address.
        """
        path: AnyPath = FOLDER / "index.html"
        if self.run is not None:
            path, text = self.run.workdir / "evaluation" / "playground.html", self.page()
            check_writable(path)
            write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        address = path.resolve().as_uri() if isinstance(path, Path) else str(path)
        webbrowser.open(address)
        return address

    def _repr_html_(self) -> str:
        """The page in a frame of its own."""
        style = "width: 100%; height: 900px; border: 0; border-radius: 8px"
        return f'<iframe title="playground" style="{style}" srcdoc="{html.escape(self.page())}"></iframe>'


def play(run: Run | None = None) -> Playground:
    """Opens the playground: points and digits under the exact denoiser, to drag and to watch.

    In a notebook it is what a cell shows that ends with this call. Elsewhere it is opened in a browser.

    Args:
      run: a run of the experiment "digits", or one like it, whose network the page shows beside the exact answer.
        Without one, a browser can load the network that comes with the page, and a notebook shows none.

    Raises:
      UserError: the network is not one that the page can evaluate.
    """
    shown = Playground(run)
    if not _in_notebook():
        print(f"playground: {shown.open()}")
    return shown


def check_playable(run: Run) -> None:
    """Raises a `UserError` if the page cannot evaluate the network of a run."""
    model, config = run.model, run.config
    arch = model.arch if isinstance(model, UNet) else None
    usable = (
        arch is not None
        and run.shape == (SIDE, SIDE, 1)
        and (config.data.source, config.data.split) == ("digits", "train")  # of which the page has the exact answer
        and (config.diffusion.target, config.labels.num_classes, model.out_channels) == ("eps", 0, 1)
        and (arch.scale_shift_norm, arch.resample_in_block, arch.padding) == (False, False, "same")
        and (arch.time_embedding, arch.time_scale) == ("sin_cos", 1.0)
        and (arch.num_heads, arch.head_channels) == (1, 0)
    )
    if not usable:
        raise UserError('the playground shows a run of the experiment "digits": an unconditional network of 8x8 digits')


def script_of_run(run: Run) -> str:
    """The script with the network of a run."""
    return network_script(run.model.arch, run.params, factory.noise_schedule(run.config), run.step)


def network_script(arch: Architecture, params: Params, schedule: NoiseSchedule, step: int) -> str:
    """The script with a network of 8x8 digits: its shape, its noise levels, its parameters as float16 in base64."""
    flat = traverse_util.flatten_dict(params, sep="/")
    rounded = {name: np.asarray(value, "<f2") for name, value in sorted(flat.items())}
    content: dict[str, Any] = {
        "arch": {
            "channels": arch.channels,
            "channel_mult": list(arch.channel_mult),
            "num_res_blocks": arch.num_res_blocks,
            "norm_groups": arch.norm_groups,
            "norm_epsilon": arch.norm_epsilon,
            "side": SIDE,
        },
        "alpha_bar": [float(f"{value:.10g}") for value in schedule.alpha_bar],
        "steps": step,
        "shapes": [[name, int(value.size)] for name, value in rounded.items()],
        "weights": base64.b64encode(b"".join(value.tobytes() for value in rounded.values())).decode(),
    }
    head = f"/* The network of a run after {step:,} steps, as float16; written by benchmarks/playground_data.py. */"
    return f'{head}\ndefine("network", [], () => ({json.dumps(content)}));\n'


def digits_script() -> str:
    """The script with all digits: a letter from A to Q for the level of each pixel, those of the training set first."""
    examples, num_train = Digits("all"), len(Digits("train"))
    levels = np.round(np.stack([examples[i]["image"] for i in range(len(examples))]) * (MAX_LEVEL / 255))
    content = {
        "num_train": num_train,
        "labels": "".join(str(examples[i]["label"]) for i in range(len(examples))),
        "levels": "".join(chr(65 + int(level)) for level in levels.ravel()),
    }
    head = "/* The 1,797 handwritten digits of scikit-learn, 8x8; written by benchmarks/playground_data.py. */"
    return f'{head}\ndefine("digits", [], () => ({json.dumps(content)}));\n'


def _file(name: str) -> str:
    """A file of the page."""
    return (FOLDER / name).read_text(encoding="utf-8")


def _in_notebook() -> bool:
    """Whether this runs in a notebook, which shows the last value of a cell."""
    return "google.colab" in sys.modules or "ipykernel" in sys.modules
