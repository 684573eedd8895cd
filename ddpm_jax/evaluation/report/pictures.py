"""Pictures as parts of a page: images as data URIs, a chain as sheets of frames, and plots as inline SVG.

A page with pictures of large images would be too large, so these are reduced and their number is limited.
"""

import base64
import io
import math
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ddpm_jax.evaluation.plots import Picture, svg_panels
from ddpm_jax.evaluation.report.markup import Html, element, escaped
from ddpm_jax.runtime.images import check_pictured, enlargement, tile_images

_MOST_PNG = 200_000  # bytes; a larger picture is written as WebP, with loss
_MOST_PIXELS = 600_000  # of all images of a picture


def fitting(images: np.ndarray, *, side: int = 128, least: int = 8) -> np.ndarray:
    """As many of the images `[N, H, W, C]` uint8 as one picture may have, reduced to at most `side` pixels.

    Raises:
      UserError: no picture can show images of so many channels.
    """
    check_pictured(images.shape[-1], otherwise="they are not shown here")
    factor = math.ceil(images.shape[1] / side)
    if factor > 1:
        images = np.stack([_reduced(image, factor) for image in images[:64]])
    return images[: max(least, _MOST_PIXELS // math.prod(images.shape[1:3]))]


def grid(images: np.ndarray, *, columns: int, alt: str) -> Html:
    """Images `[N, H, W, C]` uint8 row by row in one picture, with transparent gaps."""
    tiles = _tiled(images, columns)
    height, width = tiles.shape[:2]
    return element("img", src=data_uri(tiles), alt=alt, width=width, height=height, class_=_style(images))


def halves(images: np.ndarray, *, columns: int, alt: str) -> Html:
    """Images `[N, H, W, C]` uint8 in two pictures, side by side or, where the page is narrow, one below the other.

    Args:
      images: the images; the first half of the columns is the first picture.
      columns: number of columns of both pictures together, even.
      alt: what they show.
    """
    middle, column = columns // 2, np.arange(len(images)) % columns
    parts = [images[column < middle], images[column >= middle]]
    return element("div", *(grid(part, columns=middle, alt=alt) for part in parts if len(part)), class_="halves")


def sheet(frames: np.ndarray, *, columns: int, alt: str) -> Html:
    """Frames `[F, N, H, W, C]` uint8 as one picture, of which the page shows one frame at a time, at first the last."""
    tiles = np.stack([_tiled(images, columns) for images in frames])
    zoom = enlargement(frames.shape[2])
    small = tiles[:, ::zoom, ::zoom]
    num, height, width, channels = small.shape
    uri = data_uri(small.reshape(-1, width, channels))
    style = f"--frames:{num};aspect-ratio:{width}/{height};background-image:url({uri})"
    return element("div", role="img", aria_label=alt, class_=f"sheet {_style(frames[0])}", style=style)


def _tiled(images: np.ndarray, columns: int) -> np.ndarray:
    """Images `[N, H, W, C]` uint8 in a grid `[H', W', C + 1]`, whose gaps are transparent."""
    gaps = tile_images(np.zeros((*images.shape[:3], 1), np.uint8), columns=columns)
    return np.concatenate([tile_images(images, columns=columns), 255 - gaps], axis=-1)


def data_uri(image: np.ndarray) -> str:
    """One picture `[H, W, C]` uint8, C = 1 to 4, as the address of itself: PNG, or WebP where that is much smaller."""
    modes = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
    channels = image.shape[-1]
    picture = Image.fromarray(image.squeeze(-1) if channels == 1 else image, modes[channels])
    kind, written = "png", io.BytesIO()
    picture.save(written, format="PNG", optimize=True)
    if written.tell() > _MOST_PNG and max(picture.size) < 16_384:
        kind, written = "webp", io.BytesIO()
        picture.convert("RGBA" if channels in (2, 4) else "RGB").save(written, format="WEBP", quality=80)
    return f"data:image/{kind};base64,{base64.b64encode(written.getvalue()).decode()}"


def plot(figure: Picture, *, name: str, alt: Sequence[str]) -> Html:
    """The panels of a figure as inline SVG side by side, or one below the other where the page is narrow.

    Args:
      figure: the figure, without a title over all panels.
      name: a word that no other plot of the page has, which begins the identifiers in it.
      alt: what each panel shows, for those who do not see it.
    """
    drawn = svg_panels(figure, salt=name)
    return element("div", *(_inline(svg, f"{name}-{i}-", alt[i]) for i, svg in enumerate(drawn)), class_="plot")


def _inline(svg: str, prefix: str, alt: str) -> Html:
    """A picture of matplotlib as a part of a page: with its own identifiers, a description, and the page's width."""
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", svg)
    start, _, rest = svg.partition(">")
    [box] = re.findall(r'viewBox="([^"]*)"', start)
    width = float(box.split()[2]) * 4 / 3  # from points
    label = escaped(alt)
    return Html(f'<svg viewBox="{box}" role="img" aria-label="{label}" style="--width:{width:.0f}px">{rest.strip()}')


def _reduced(image: np.ndarray, factor: int) -> np.ndarray:
    """An image `[H, W, C]` uint8, smaller by a whole factor."""
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).reduce(factor)
    return np.asarray(picture).reshape(picture.height, picture.width, image.shape[-1])


def _style(images: np.ndarray) -> str:
    """The class of a picture of images `[N, H, W, C]`: pixels of small images stay sharp when they are enlarged."""
    return "pixels" if images.shape[1] <= 64 else "smooth"
