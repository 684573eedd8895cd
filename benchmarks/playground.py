"""Prints the time of a step of the playground in headless Chromium, and the sizes of its files; draws its picture.

  python benchmarks/playground.py --out=docs/images/playground.png

A step of the plane is one step of 400 points by the exact denoiser and the drawing of the whole page: density, arrows,
points, panels. A step of the digits is the same with eight digits and 1,297 training digits.
"""

import io
import sys
from pathlib import Path
from typing import Any

import _root  # noqa: F401
import numpy as np
from absl import flags
from PIL import Image

from ddpm_jax.commands import cli
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.playground import FOLDER
from ddpm_jax.runtime.paths import any_path
from ddpm_jax.runtime.storage import write_whole

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support import browser

HEIGHT = 525  # pixels of the picture
OUT = flags.DEFINE_string("out", "runs/playground.png", "The PNG file for the picture of the page.")

STEP = """
new Promise((done) => setTimeout(() => {
  const {main, chains} = modules, model = main.model(), seconds = [];
  const chain = new chains.Chain(model.setting, model.chain.num);
  for (let frame = 1; frame <= model.num_steps; frame++) {
    const begin = performance.now();
    chain.advance();
    model.chain = chain;
    model.frame = frame;
    main.draw();
    for (const canvas of document.querySelectorAll("canvas"))
      if (canvas.width && canvas.clientWidth) canvas.getContext("2d").getImageData(0, 0, 1, 1);
    seconds.push((performance.now() - begin) / 1000);
  }
  done(seconds);
}, 1500))
"""
NETWORK = """
modules.comparison.stored("network.js").then(({arch, shapes, weights}) => {
  const network = new modules.unet.UNet(arch, modules.unet.parameters(shapes, weights));
  const x = modules.arrays.noise(0, 1, 64, 0);
  return Array.from({length: 30}, (_, i) => {
    const begin = performance.now();
    network.eps(x, 10 * i + 1);
    return (performance.now() - begin) / 1000;
  });
})
"""


def line(name: str, seconds: Any) -> str:
    """A row of the table: the median and the 95th percentile, in milliseconds."""
    median, late = 1000 * np.percentile(seconds, [50, 95])
    return f"{name:38}{median:10.1f}{late:18.1f}"


def picture(page: browser.Page) -> Image.Image:
    """The upper part of the page at the stop of the posterior, with the network."""
    page.evaluate("location.hash = 'stop=2&lang=en&theme=light'; document.getElementById('load').click()")
    page.evaluate("new Promise((done) => setTimeout(done, 5000))")
    whole = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    return whole.crop((0, 0, whole.width, HEIGHT))


def main() -> None:
    """Prints the table and writes the picture."""
    if not (browser.PROGRAM and browser.SHELL):
        raise UserError("no Chromium is installed: apt install chromium")
    print(f"{'1,400 pixels wide, milliseconds':38}{'median':>10}{'95th percentile':>18}")
    for name, stop in {"a step of the plane, 400 points": 1, "a step of eight digits": 2}.items():
        with browser.Page(FOLDER / "index.html") as page:
            page.evaluate(f"location.hash = 'stop={stop}'")
            print(line(name, page.evaluate(STEP)))
            if stop == 2:
                print(line("the network, one digit", page.evaluate(NETWORK)))
                image = picture(page)
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    network = sizes.pop("network.js", 0)
    write_whole(any_path(OUT.value), lambda path: image.save(path, optimize=True))
    print(f"wrote {OUT.value}")
    print(f"the page {sum(sizes.values()):,} bytes, the network {network:,} bytes")


if __name__ == "__main__":
    cli.run(main, module=__name__)
