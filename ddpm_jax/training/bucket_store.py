"""The checkpoints of a run in a bucket, which its lease lists. Read next: `stores.py`, `runtime/lease.py`."""

import contextlib
from collections.abc import Callable, Iterable, Sequence

from etils import epath

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import storage
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.lease import Content, Lease, LostError
from ddpm_jax.runtime.paths import MANIFEST
from ddpm_jax.training.listing import TERM, places_of, places_without_manifest

Keep = Callable[[Sequence[int]], Sequence[int]]
"""Which of the steps with a checkpoint, in rising order, are kept."""


class Bucket:
    """The `Store` of a bucket, whose manifest is the lease of the run.

    The manifest has "checkpoints", the place of each by its step, "damaged", the places of damaged ones, and where
    the lease of a run keeps others away, "of", the term of that run: an earlier term never gets the store back.

    Args:
      folder: the checkpoints folder of the run.
      keep: the checkpoints that are kept.
      of: the term of the run whose open store keeps all others away from this one; None if this one is the run's.
    """

    publishes = True

    def __init__(self, folder: epath.Path, keep: Keep, *, of: int | None) -> None:
        self.term = 0
        self.folder: AnyPath = folder
        self._path, self._keep, self._of = folder / MANIFEST, keep, of
        self._opened: Lease | None = None  # of the first process only
        self._begun = False

    @property
    def root(self) -> AnyPath:
        """The prefix of this term."""
        return self.folder / f"t{self.term}"

    @property
    def _lease(self) -> Lease:
        """The lease of the first process."""
        assert self._opened is not None, "only the first process writes, after it has opened the store"
        return self._opened

    def open(self) -> None:
        """Takes the lease, and removes what earlier terms have left half written."""
        what, now = str(self.folder.parent), self._of is not None
        self._opened = Lease(self._path, what=what, first=self._first, now=now)
        self.term = self._lease.term
        self._sweep()

    def check(self) -> None:
        """Raises a `LostError` if another process is known to have taken over."""
        if self._opened:
            self._opened.check()

    def begin(self) -> None:
        """Raises as `check`; remembers that something lies under the root from now on."""
        self.check()
        self._begun = True

    def publish(self, step: int) -> None:
        """Adds a checkpoint of this term to the manifest, takes those out that are not kept, and removes these."""
        if not self._opened:
            return

        def added(content: Content) -> Content:
            places = {**content["checkpoints"], str(step): f"{self.root.name}/{step}"}
            kept = {str(kept) for kept in self._keep(sorted(map(int, places)))}
            return {**content, "checkpoints": {step: place for step, place in places.items() if step in kept}}

        before = self._listed()  # not what a later attempt finds, if the answer to the first one is lost
        self._lease.update(added)
        with contextlib.suppress(OSError):  # nobody looks at what is left, and the next start removes it
            self._remove(before - self._listed())

    def set_aside(self, steps: Sequence[int]) -> list[AnyPath]:
        """Lists the checkpoints as damaged; they stay where they are."""
        return [self.folder / place for place in self._unlisted(steps, into=["damaged"])]

    def forget(self, steps: Sequence[int]) -> None:
        """Removes the checkpoints."""
        self._remove(self._unlisted(steps))

    def close(self) -> None:
        """Releases the lease; the manifest of a run of which nothing was written is removed."""
        if self._opened:
            self._opened.close(remove=self._of is None and not self._begun and not self._listed())

    def _first(self, before: Content) -> Content:
        """What the manifest holds at first: for a run without one, the checkpoints that were copied from a disk.

        Raises:
          LostError: a later term of the run has had the store.
          UserError: there are others, which would be removed: a manifest that lists them is missing, or as
        `_check_newest`.
          ValueError: it is not a manifest.
        """
        fence: Content = {} if self._of is None else {"of": self._of}
        if int(before.get("of", 0)) > int(fence.get("of", before.get("of", 0))):
            raise LostError(f"another process has taken over the run in {self.folder.parent.parent}")
        self._check_newest(before)
        if places_of(before):
            return {"damaged": [], **before, **fence}
        found = {str(step): place for step, place in places_without_manifest(self.folder).items()}
        return {"damaged": [], **before, **fence, "checkpoints": found}

    def _check_newest(self, before: Content) -> None:
        """Raises a `UserError` if the folder has later checkpoints than its manifest may list.

        A term begins in the manifest, so a folder of a later one shows that the manifest is an older version; and a
        checkpoint in the folder itself, of a later step than all that are listed, was copied over the run.
        """
        if not before:
            return
        names, places = storage.names(self.folder), places_of(before)
        terms = [int(found[1]) for name in names if (found := TERM.fullmatch(name))]
        if max(terms, default=0) > int(before.get("term", 0)):
            raise UserError(
                f"{self._path} is older than the checkpoints beside it, of the start t{max(terms)}: restore the newest "
                f"version of the object; or remove the folders of later starts than t{before.get('term', 0)}, to go on "
                "from what it lists"
            )
        copied = [int(name) for name in names if name.isdecimal() and int(name) > max(places, default=0)]
        if copied and places:
            raise UserError(
                f"a checkpoint of step {max(copied)} was copied over the run in {self.folder.parent}, whose newest one "
                f"is that of step {max(places)}: copy to an address without a run; or remove {self._path}, to go on "
                "from what was copied"
            )

    def _listed(self) -> set[str]:
        """The places in the manifest."""
        content = self._lease.content
        return {*content["checkpoints"].values(), *content["damaged"]}

    def _unlisted(self, steps: Sequence[int], *, into: Sequence[str] = ()) -> list[str]:
        """Takes the checkpoints of these steps out of the manifest, into other lists of it; returns their places.

        If one of them lies under the root, a new term begins, so that its step can be saved again.
        """
        places = self._lease.content["checkpoints"]
        moved = [places[str(step)] for step in steps if str(step) in places]
        term = self.term + any(place.startswith(f"{self.root.name}/") for place in moved)

        def changed(content: Content) -> Content:
            left = {step: place for step, place in content["checkpoints"].items() if place not in moved}
            lists = {name: [*content[name], *(p for p in moved if p not in content[name])] for name in into}
            return {**content, **lists, "checkpoints": left, "term": term}

        if moved:
            self._lease.update(changed)
            self.term = term
        return moved

    def _sweep(self) -> None:
        """Removes what this and earlier terms have left half written; a later one is that of a successor."""
        listed = self._listed()
        terms = [found for name in storage.names(self.folder) if (found := TERM.fullmatch(name))]
        earlier = [found[0] for found in terms if int(found[1]) <= self.term]
        below = [f"{term}/{name}" for term in earlier for name in storage.names(self.folder / term)]
        with contextlib.suppress(OSError):
            self._remove(place for place in below if place not in listed)

    def _remove(self, places: Iterable[str]) -> None:
        """Removes folders that the manifest no longer lists."""
        for place in places:
            storage.remove_tree(self.folder / place)
