"""What a reader of foreign weights finds out, and what it may assume where the weights do not tell.

Read next: `openai.py`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ddpm_jax.convert.names import Family
from ddpm_jax.errors import UserError

# Of the images of the published models with these channel multipliers.
_IMAGE_SIZES = {
    (1, 2, 2, 2): 32,
    (1, 2, 2, 2, 4): 64,
    (1, 2, 3, 4): 64,
    (1, 1, 2, 3, 4): 128,
    (1, 1, 2, 2, 4, 4): 256,
}


class Network(NamedTuple):
    """A foreign network that our configuration can express.

    Attributes:
      kind: the format, in words.
      family: `Family`.
      settings: `{configuration key: value}`, changes of `configs/base.py`.
      state_dict: `{name: array}`, the weights to sample with.
      raw: the weights before averaging, where the file has both; else None.
      assumed: `{flag: value}` of what the weights do not tell and nobody said.
      notes: sentences on what was taken in the place of what.
      interleaved: the rows of fused queries, keys and values run over (head, which of three, channel), not over (which
        of three, head, channel).
    """

    kind: str
    family: Family
    settings: Mapping[str, Any]
    state_dict: Mapping[str, Any]
    raw: Mapping[str, Any] | None = None
    assumed: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    interleaved: bool = True


class Hints:
    """What the user says of weights that do not tell it, and what is assumed where nobody does.

    Args:
      given: `{flag: value}`; None is not given.
      kind: the format, for messages.
    """

    def __init__(self, given, kind):
        self._given, self._kind = {name: value for name, value in given.items() if value is not None}, kind
        self.assumed = {}

    def take(self, name, otherwise):
        """The value that was given, or the one to assume."""
        if name in self._given:
            return self._given.pop(name)
        self.assumed[name] = otherwise
        return otherwise

    def given(self, *names):
        """Whether any of these was given."""
        return any(name in self._given for name in names)

    def image_size(self, channel_mult):
        """Of a network with these multipliers; raises a UserError where it is neither given nor known."""
        if "image_size" not in self._given and tuple(channel_mult) not in _IMAGE_SIZES:
            raise UserError(f"these {self._kind} weights do not tell the size of the images: say --image_size=PIXELS")
        return self.take("image_size", _IMAGE_SIZES.get(tuple(channel_mult)))

    def check_all_taken(self):
        """Raises a UserError for what was given and means nothing here."""
        for name, value in self._given.items():
            raise UserError(f"--{name}={value} means nothing for {self._kind} weights, which settle it themselves")


def images(size, *, channels_in, channels_out):
    """The settings of images of that size, and of what a U-Net says of them.

    Raises:
      UserError: it is no network from noisy images to what is in them.
    """
    if channels_in not in (1, 3) or channels_out not in (channels_in, 2 * channels_in):
        raise UserError(
            f"the network maps {channels_in} channels to {channels_out}: only networks of grey or colour images can be "
            "expressed, whose result is an image or an image and its variance"
        )
    learned = channels_out > channels_in
    return {
        "data.image_size": size,
        "data.channels": channels_in,
        "diffusion.learned_variance": learned,
        "loss.kind": "hybrid" if learned else "simple",
    }


def multiples(widths, base):
    """The channel multipliers of levels that are so wide.

    Raises:
      ValueError: the base width is none.
    """
    if base < 1:
        raise ValueError(f"a base width of {base}")
    return tuple(width // base for width in widths)


def diffusion(hints, *, schedule, num_timesteps):
    """The settings of the noise; linear betas are Ho et al.'s, rescaled where T is not 1000 (improved diffusion)."""
    schedule, num_timesteps = hints.take("schedule", schedule), hints.take("num_timesteps", num_timesteps)
    settings = {"diffusion.schedule": schedule, "diffusion.num_timesteps": num_timesteps}
    if schedule == "linear":
        settings |= {"diffusion.beta_start": 0.1 / num_timesteps, "diffusion.beta_end": 20 / num_timesteps}
    return settings
