"""Classes by their names: which ones the user asks for, and whether the classes of the data are those of the run.

A run keeps the names of its classes (`config.labels.names`), so that a class has the same number wherever its images
are stored.
"""

import functools
import hashlib
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from ddpm_jax.data.source import Example, Source, image_name
from ddpm_jax.errors import UserError, did_you_mean, listed, shortened

_NUMBER = re.compile(r"[+-]?[0-9]+")
_INDEX = re.compile(r"#(-?[0-9]+)")  # "#7" is the class of index 7, whatever the classes are called


def legend(labels: Sequence[int], names: Sequence[str], *, num_classes: int, most: int = 20) -> str:
    """The names of labels, or their numbers where they have none; `num_classes` itself is the null label."""
    word = lambda label: "no class" if label == num_classes else names[label] if names else str(label)
    return listed([word(label) for label in labels], most)


def file_part(asked: str) -> str:
    """A user's text as part of a file's name: short, without characters that are special to a shell or file system."""
    usual = asked.replace(",", "_")
    safe = re.sub(r"[^\w.-]+", "_", usual)[:40]
    if safe == usual:
        return safe
    return f"{safe}_{hashlib.sha256(asked.encode(errors='surrogatepass')).hexdigest()[:8]}"


def usable_names(source: Source, num_classes: int) -> tuple[str, ...]:
    """The names of a source's classes as a run keeps them; () unless there is exactly one string for each class."""
    given = getattr(source, "class_names", None)
    names = () if given is None else tuple(given)
    fit = len(names) == num_classes == len(set(names)) and all(isinstance(name, str) for name in names)
    return names if fit else ()


def indices(asked: str, *, num_classes: int, names: Sequence[str] = ()) -> tuple[int, ...]:
    """The indices of the classes in a comma-separated list of names or numbers.

    An entry that is the name of a class means that class. Any other entry that is a whole number means the class of
    that index, unless the names of all classes are whole numbers: then an entry is always a name. `#7` is always an
    index. If an entry is a name, and as an index would mean another class, a note says so once.

    Args:
      asked: the list, such as "cat", "0,1,2" or "cat,#3".
      num_classes: the number of classes, 1 or more.
      names: the names of the classes, or ().

    Raises:
      UserError: there is no such class.
    """
    entries = [entry.strip() for entry in asked.split(",")]
    found = {entry: _index(entry, asked, num_classes, names) for entry in entries}
    numbers = {entry: int(entry) for entry in found if _NUMBER.fullmatch(entry)}
    readings = [
        f"{entry} has the index {found[entry]}, and #{number} is called {names[number]}"
        for entry, number in numbers.items()
        if number != found[entry] and 0 <= number < len(names)
    ]
    if readings:
        _note_once(f"note: labels={shortened(asked)}: these are names, not indices: {listed(readings, 3)}")
    return tuple(found[entry] for entry in entries)


@functools.cache
def _note_once(text: str) -> None:
    """Prints a note the first time only: the classes of a run are looked up more than once."""
    print(text, flush=True)


def _index(entry: str, asked: str, num_classes: int, names: Sequence[str]) -> int:
    """The index of the class that one entry means."""
    if entry in ("all", "none"):
        raise UserError(
            f"labels={shortened(asked)}: {entry} cannot be combined with other classes; choose a class of that "
            "name by its number"
        )
    index = _INDEX.fullmatch(entry)
    found = None if index else position(entry, names)
    if found is not None:
        return found
    are_numbers = bool(names) and all(map(_NUMBER.fullmatch, names))
    if index or (_NUMBER.fullmatch(entry) and not are_numbers):
        number = int(index[1] if index else entry)
        if 0 <= number < num_classes:
            return number
        known = f": {listed(names)}" if names else ""
        raise UserError(f"labels={shortened(asked)}: the classes are numbered from 0 to {num_classes - 1}{known}")
    if not names:
        raise UserError(
            f"labels={shortened(asked)}: the classes of this model have no known names; write whole numbers "
            "separated by commas, or all, or none"
        )
    hint = did_you_mean(entry, names)
    raise UserError(
        f"labels={shortened(asked)}: no class is called {shortened(entry, 40)!r}; {hint and f'{hint} '}the classes "
        f"are {listed(names)}"
    )


def position(name: str, names: Sequence[str]) -> int | None:
    """The position of a name among others, exact or else in another Unicode form; None if it is not among them."""
    if name in names:
        return names.index(name)
    alike = [i for i, other in enumerate(names) if _composed(other) == _composed(name)]
    return alike[0] if len(alike) == 1 else None


def _composed(name: str) -> str:
    """The name with each accented letter as one character: macOS returns the names of folders in decomposed form."""
    return unicodedata.normalize("NFC", name)


class Relabelled:
    """A source whose labels are renumbered, so that a class has the number that a run gives to its name.

    Attributes:
      source: the source itself.
      num_classes, class_names: those of the run.
    """

    def __init__(self, source: Source, names: Sequence[str], numbers: Sequence[int]) -> None:
        """Takes the run's names, and for each label of the source its number among them."""
        self.source, self.num_classes, self.class_names = source, len(names), tuple(names)
        self._numbers = np.asarray(numbers, np.int32)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        """Image `index` with its label in the run's numbering."""
        example = self.source[index]
        return {**example, "label": self._numbers[example["label"]]}

    def image_name(self, index: int) -> str:
        """The name that the image has in the source."""
        return image_name(self.source, index)


def matched(source: Source, names: Sequence[str]) -> Source:
    """The source with its classes numbered as in a run with these names.

    The source itself is returned if its names are the same, or if the source or the run has no names.

    Raises:
      UserError: a class of the data is not a class of the run.
    """
    ours, names = tuple(getattr(source, "class_names", ())), tuple(names)
    if ours == names or not ours or not names:
        return source
    numbers = [number for name in ours if (number := position(name, names)) is not None]
    if len(set(numbers)) < len(ours):
        raise UserError(
            f"the classes of the data are {listed(ours)} and the classes of the run are {listed(names)}: use data "
            "whose classes are among those of the run, or rename its folders"
        )
    if numbers == list(range(len(names))):
        return Relabelled(source, names, numbers)
    print(f"note: the data has the classes {listed(ours)}; they are numbered as in the run: {listed(names)}",
          flush=True)  # fmt: skip
    return Relabelled(source, names, numbers)
