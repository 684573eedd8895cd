"""Held-out images: chosen by name, the same whatever other images there are, and never trained on."""

import pickle

import numpy as np
import pytest
from PIL import Image
from support.tiny import run as run_program
from support.tiny import save, tiny_config

import ddpm_jax as dj
from ddpm_jax import factory
from ddpm_jax.data.classes import Relabelled
from ddpm_jax.data.held_out import Part
from ddpm_jax.data.source import image_name
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.results import read_results


def folder(root, names, *, empty=()):
    """A folder of grey images of these names, each of its own level; those in `empty` cannot be read."""
    for level, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name in empty:
            (root / name).write_bytes(b"")
        else:
            Image.new("L", (8, 8), level).save(root / name)
    return root


def both(source, share=0.3):
    return [Part(source, share, held_out=side) for side in (False, True)]


def names(part):
    return [image_name(part, index) for index in range(len(part))]


NAMES = [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(30)]


def test_the_parts_are_disjoint_and_together_all_images_in_their_order(tmp_path):
    source = dj.ImageFolder(folder(tmp_path, NAMES), size=8, channels=1)
    train, held_out = both(source)
    assert sorted([*train.indices, *held_out.indices]) == list(range(60))
    for part in (train, held_out):
        assert list(part.indices) == sorted(part.indices)
        assert (part.num_classes, part.class_names) == (2, ("cat", "dog"))
        for index in range(len(part)):
            assert part[index]["image"][0, 0, 0] == source[part.indices[index]]["image"][0, 0, 0]
            assert NAMES[source[part.indices[index]]["image"][0, 0, 0]] == names(part)[index]


def test_other_images_move_none_to_the_other_part(tmp_path):
    """Added or removed, before, between or after the others; and wherever the folder is."""
    one = dj.ImageFolder(folder(tmp_path / "one", NAMES), size=8)
    fewer_and_more = [
        *NAMES[5:50],
        *(f"{kind}/{'a' if number % 2 else 'z'}{number}.png" for kind in ("cat", "dog", "ant") for number in range(20)),
    ]
    other = dj.ImageFolder(folder(tmp_path / "other", fewer_and_more), size=8)
    chosen = [{name for name in names(Part(source, 0.3, held_out=True)) if name in NAMES} for source in (one, other)]
    assert chosen[1] == chosen[0] & set(fewer_and_more)
    assert len(chosen[1]) > 5


def test_the_share_is_that_of_the_images_and_a_larger_one_has_the_images_of_a_smaller_one():
    source = dj.ArrayImages(np.zeros((20_000, 1, 1, 1), np.uint8))
    parts = [set(Part(source, share, held_out=True).indices) for share in (0.1, 0.2, 0.5)]
    for share, part in zip((0.1, 0.2, 0.5), parts, strict=True):
        assert len(part) == pytest.approx(20_000 * share, abs=4 * np.sqrt(20_000 * share * (1 - share)))
    assert parts[0] < parts[1] < parts[2]
    indices = np.array(sorted(parts[2]))
    assert np.mean(indices) == pytest.approx(10_000, rel=0.05)
    assert np.mean(indices % 2) == pytest.approx(0.5, abs=0.02)


def test_which_digits_are_held_out_does_not_change_between_versions():
    chosen = Part(dj.Digits("train"), 0.1, held_out=True).indices
    assert [len(chosen), *chosen[:6]] == [142, 9, 39, 49, 51, 55, 65]


def test_a_name_is_the_same_whether_or_not_its_accents_are_decomposed(tmp_path):
    class Named(dj.ArrayImages):
        form = "{}"

        def image_name(self, index):
            return self.form.format(index)

    images = np.zeros((200, 1, 1, 1), np.uint8)
    chosen = []
    for form in ("caf\u00e9/{}", "cafe\u0301/{}"):
        source = Named(images)
        source.form = form
        chosen.append(list(Part(source, 0.5, held_out=True).indices))
    assert chosen[0] == chosen[1]
    source.form = "\udcff{}"  # a byte of a file's name that is not UTF-8
    Part(source, 0.5, held_out=True)


def test_an_unreadable_image_is_replaced_by_one_of_its_own_part(tmp_path):
    """Otherwise a held-out image would be trained on."""
    empty = NAMES[::2]
    source = dj.ImageFolder(folder(tmp_path, NAMES, empty=empty), size=8, channels=1, skip_unreadable=True)
    for part in both(source):
        shown = {NAMES[part[index]["image"][0, 0, 0]] for index in range(len(part))}
        assert shown == set(names(part)) - set(empty)


def test_a_part_without_a_readable_image_ends(tmp_path):
    held_out = both(dj.ImageFolder(folder(tmp_path / "whole", NAMES), size=8))[1]
    source = dj.ImageFolder(folder(tmp_path / "damaged", NAMES, empty=names(held_out)), size=8, skip_unreadable=True)
    train, held_out = both(source)
    assert train[0]["image"].shape == (8, 8, 3)
    with pytest.raises(UserError, match=rf"^none of the {len(held_out)} images can be read, for example .*"):
        held_out[0]


def test_parts_are_sent_to_other_processes_and_keep_names_through_every_wrapper(tmp_path):
    source = dj.ImageFolder(folder(tmp_path, NAMES), size=8, channels=1)
    config = tiny_config(data__source="folder", data__path=str(tmp_path), data__held_out=0.3)
    wrapped = factory.source(config)
    part = pickle.loads(pickle.dumps(wrapped))
    assert names(part) == names(Part(source, 0.3, held_out=False))
    assert names(Relabelled(part, ("dog", "cat"), (1, 0))) == names(part)
    assert image_name(dj.Digits("train"), 3) == "3"


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (1e-6, "holds out none of the 1,297 images: use a larger"),
        (1 - 1e-7, "leaves none of the 1,297 images: use a smaller"),
    ],
)
def test_a_part_without_images_is_refused(share, words, tmp_path):
    with pytest.raises(UserError, match=words):
        dj.train(tiny_config(data__held_out=share), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def same_images(source, expected):
    return len(source) == len(expected) and all(
        np.array_equal(source[i]["image"], expected[i]["image"]) for i in range(len(expected))
    )


def test_a_run_gives_either_part_and_other_splits_whole(tmp_path):
    digits = dj.Digits("train")
    train, held_out = both(digits, 0.25)
    run = dj.Run(save(tmp_path / "run", tiny_config(data__held_out=0.25)))
    assert same_images(run.source("held_out"), held_out)
    assert same_images(run.source("train"), train)
    assert len(run.source("test")) == 500
    whole = dj.Run(save(tmp_path / "whole", tiny_config()))
    assert len(whole.source("train")) == 1297
    with pytest.raises(UserError, match=r"^no images are held out of the training of this run: train with config.d"):
        whole.source("held_out")


def test_every_split_of_a_folder_but_held_out_has_the_images_of_the_training(tmp_path):
    options = {"data__source": "folder", "data__path": str(folder(tmp_path / "images", NAMES)), "data__held_out": 0.25}
    run = dj.Run(save(tmp_path / "run", tiny_config(**options)))
    train, held_out = both(dj.ImageFolder(tmp_path / "images", size=8, channels=1), 0.25)
    assert same_images(run.source("test"), train)
    assert same_images(run.source("held_out"), held_out)


def test_the_program_measures_held_out_images(tmp_path):
    config = tiny_config(data__held_out=0.02, diffusion__num_timesteps=3, diffusion__beta_end=0.9)
    save(tmp_path, config)
    found = run_program("evaluate.py", f"--workdir={tmp_path}", "--split=held_out", "--metrics=bpd")
    assert found.status == 0, found.err
    [measured] = [line["num_images"] for line in read_results(tmp_path)]
    assert measured == len(Part(dj.Digits("train"), 0.02, held_out=True))


def test_images_that_a_program_gives_are_chosen_by_their_indices():
    images = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None, None], (200, 8, 8, 1))
    config = tiny_config(data__held_out=0.4, data__source="custom")
    expected = both(dj.ArrayImages(images), 0.4)[0].indices
    found = factory.source(config, dj.ArrayImages(images))
    assert [int(found[i]["image"][0, 0, 0]) for i in range(len(found))] == list(expected)
