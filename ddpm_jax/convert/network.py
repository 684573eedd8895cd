"""What a reader of foreign weights returns, and what it may assume where the weights leave something open.

Read next: `openai.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ddpm_jax.convert.names import Family, StateDict
from ddpm_jax.errors import UserError

# The image size in pixels of the published models with these channel multipliers.
_IMAGE_SIZES: dict[tuple[int, ...], int] = {
    (1, 2, 2, 2): 32,
    (1, 2, 2, 2, 4): 64,
    (1, 2, 3, 4): 64,
    (1, 1, 2, 3, 4): 128,
    (1, 1, 2, 2, 4, 4): 256,
}


class Network(NamedTuple):
    """A foreign network that our configuration can express.

    Attributes:
      kind: the name of the format, for messages.
      family: the names and layouts of its tensors.
      settings: `{configuration key: value}`, which differ from the defaults.
      state_dict: the weights to sample with.
      raw: the weights before averaging, where the file has both; else None.
      assumed: `{flag: value}` for what the weights leave open and the user did not give.
      notes: sentences for the user about choices that the reader made, such as a replaced sampler.
      interleaved: whether the rows of fused queries, keys and values run over (head, which of three, channel) instead
        of (which of three, head, channel).
    """

    kind: str
    family: Family
    settings: Mapping[str, Any]
    state_dict: StateDict
    raw: StateDict | None = None
    assumed: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    interleaved: bool = True


class Hints:
    """What the user gives for things that the weights leave open, and what is assumed where nothing is given.

    Args:
      given: `{flag: value}`; a value of None means that the flag was not given.
      kind: the name of the format, for messages.
    """

    def __init__(self, given: Mapping[str, Any], kind: str) -> None:
        self._given, self._kind = {name: value for name, value in given.items() if value is not None}, kind
        self.assumed: dict[str, Any] = {}

    def take(self, name: str, otherwise: Any) -> Any:
        """The value that was given, or else `otherwise`, which is recorded as assumed."""
        if name in self._given:
            return self._given.pop(name)
        self.assumed[name] = otherwise
        return otherwise

    def given(self, *names: str) -> bool:
        """Whether any of these flags was given and not taken yet."""
        return any(name in self._given for name in names)

    def image_size(self, channel_mult: Sequence[int]) -> int:
        """The image size in pixels of a network with these channel multipliers.

        Raises:
          UserError: it is neither given nor known.
        """
        if "image_size" not in self._given and tuple(channel_mult) not in _IMAGE_SIZES:
            raise UserError(f"these {self._kind} weights do not show the size of the images: give image_size=PIXELS")
        return self.take("image_size", _IMAGE_SIZES.get(tuple(channel_mult)))

    def check_all_taken(self) -> None:
        """Raises a UserError for the first flag that was given and does not apply to these weights."""
        for name, value in self._given.items():
            raise UserError(f"{name}={value} does not apply to {self._kind} weights, which determine it themselves")


def images(size: int, *, channels_in: int, channels_out: int) -> dict[str, Any]:
    """The settings that follow from the size and the channels of a U-Net's input and output.

    Raises:
      UserError: the network does not map grey or colour images to predictions for them.
    """
    if channels_in not in (1, 3) or channels_out not in (channels_in, 2 * channels_in):
        raise UserError(
            f"the network maps {channels_in} channels to {channels_out}: only networks for grey or RGB images are "
            "supported, whose output is an image or an image and its variance"
        )
    learned = channels_out > channels_in
    return {
        "data.image_size": size,
        "data.channels": channels_in,
        "diffusion.learned_variance": learned,
        "loss.kind": "hybrid" if learned else "simple",
    }


def multiples(widths: Sequence[int], base: int) -> tuple[int, ...]:
    """The channel multipliers of levels with these widths, rounded down.

    Raises:
      ValueError: the base width is below 1.
    """
    if base < 1:
        raise ValueError(f"a base width of {base}")
    return tuple(width // base for width in widths)


def diffusion(hints: Hints, *, schedule: str, num_timesteps: int) -> dict[str, Any]:
    """The settings of the noise schedule, where `schedule` and `num_timesteps` are assumed if they are not given.

    Linear betas are those of Ho et al. 2020, rescaled where T is not 1000 as in improved diffusion.
    """
    schedule, num_timesteps = hints.take("schedule", schedule), hints.take("num_timesteps", num_timesteps)
    settings = {"diffusion.schedule": schedule, "diffusion.num_timesteps": num_timesteps}
    if schedule == "linear":
        settings |= {"diffusion.beta_start": 0.1 / num_timesteps, "diffusion.beta_end": 20 / num_timesteps}
    return settings
