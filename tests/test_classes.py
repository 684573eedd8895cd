"""Classes by their names: asked for, shown, and kept apart when data is moved, renamed or other."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image
from support.tiny import run as program
from support.tiny import save, tiny_config

from ddpm_jax.convert.card import model_card
from ddpm_jax.data import Digits, ImageFolder
from ddpm_jax.data.classes import Relabelled, _note_once, file_part, indices, legend, matched, position, usable_names
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.evaluate import evaluate, table
from ddpm_jax.jobs import train
from ddpm_jax.runs.run import Run
from ddpm_jax.runs.sampling import sample_run
from ddpm_jax.training.restoring import stored_config

pytestmark = pytest.mark.usefixtures("quick_compilation")

ANIMALS = ("cat", "dog", "2", "great, white", "all", "#0")
GREYS = {"ant": 120, "cat": 10, "dog": 220}
TWO = {"labels__num_classes": 2, "labels__names": ("cat", "dog"), "labels__dropout": 0.1}


def folder(root, *names):
    """Four pictures of one grey for each class, in a folder of its name; returns the root."""
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(4):
            Image.new("L", (8, 8), GREYS[name] + i).save(root / name / f"{i}.png")
    return root


def of_folder(path, **overrides):
    settings = {"data__source": "folder", "data__path": str(path), "data__on_device": False, "train__num_steps": 1}
    return tiny_config(**{"labels__num_classes": 2, **settings, **overrides})


@pytest.mark.parametrize(
    ("asked", "names", "expected"),
    [
        ("cat", ("cat", "dog"), (0,)),
        ("dog, cat,1", ("cat", "dog"), (1, 0, 1)),
        ("1", ("2", "1"), (1,)),  # all are whole numbers: always a name
        ("1", ("1", "2", "3"), (0,)),
        ("03", ("01", "02", "03"), (2,)),
        ("7", tuple("0123456789"), (7,)),
        ("2,1", ("cat", "dog", "2"), (2, 1)),  # a name if it is one, else an index
        ("2", ("2", "dog", "cow"), (0,)),
        ("#1,#0", ("2", "1"), (1, 0)),
        ("3,#3", ANIMALS, (3, 3)),
        ("#0,#5,#4", ANIMALS, (0, 5, 4)),
        ("4", ANIMALS, (4,)),
        ("0,2", (), (0, 2)),
        ("a b", ("x", "a b"), (1,)),
        ("cafe\u0301", ("th\u00e9", "caf\u00e9"), (1,)),  # as macOS writes it
    ],
)
def test_an_entry_is_a_name_or_else_an_index(asked, names, expected):
    assert indices(asked, num_classes=len(names) or 3, names=names) == expected


@pytest.mark.parametrize(
    ("asked", "names", "told"),
    [
        ("2", sorted(map(str, range(11))), "2: these are names, not indices: 2 has the index 3, and #2 is called 10"),
        ("9,10, 9", sorted(map(str, range(11))), "9,10, 9: these are names, not indices: 9 has the index 10, and #9 is "
         "called 8, 10 has the index 2, and #10 is called 9"),
        ("1,0", ("2", "1", "0"), "1,0: these are names, not indices: 0 has the index 2, and #0 is called 2"),
        ("dog,1", ("1", "dog"), "dog,1: these are names, not indices: 1 has the index 0, and #1 is called dog"),
        ("7", tuple("0123456789"), ""),
        ("0,1", sorted(map(str, range(11))), ""),
        ("#2", sorted(map(str, range(11))), ""),
        ("10", ("10", "20"), ""),  # there is no class of index 10
        ("1", ("cat", "dog"), ""),
        ("1", (), ""),
    ],
)  # fmt: skip
def test_a_number_that_is_a_name_and_would_be_another_class_is_noted_once(asked, names, told, capsys):
    _note_once.cache_clear()
    for _ in range(2):
        indices(asked, num_classes=len(names) or 3, names=names)
    assert capsys.readouterr().out == (f"note: labels={told}\n" if told else "")


@pytest.mark.parametrize(
    ("asked", "names", "message"),
    [
        ("kat", ("cat", "dog"), "no class is called 'kat'; did you mean 'cat'? the classes are cat, dog"),
        ("DOG", ("cat", "dog"), "no class is called 'DOG'; did you mean 'dog'? the classes are cat, dog"),
        ("zebra", ("cat", "dog"), "no class is called 'zebra'; the classes are cat, dog"),
        ("3", ("1", "2"), "no class is called '3'; the classes are 1, 2"),
        ("2", ("cat", "dog"), "the classes are numbered from 0 to 1: cat, dog"),
        ("-1", ("cat", "dog"), "the classes are numbered from 0 to 1: cat, dog"),
        ("#-1", ("cat", "dog"), "the classes are numbered from 0 to 1: cat, dog"),
        ("3", (), "the classes are numbered from 0 to 2"),
        ("cat,", ("cat", "dog"), "no class is called ''; the classes are cat, dog"),
        (
            "cat,all",
            ("cat", "all"),
            "all cannot be combined with other classes; choose a class of that name by its number",
        ),
        ("cat", (), "the classes of this model have no known names; write whole numbers separated by commas"),
    ],
)
def test_a_class_that_does_not_exist_is_one_line_with_the_names(asked, names, message):
    with pytest.raises(UserError) as caught:
        indices(asked, num_classes=len(names) or 3, names=names)
    assert str(caught.value).startswith(f"labels={asked}: {message}")


def test_lines_stay_short_whatever_the_names():
    names = [f"{i}" + "x" * 300 for i in range(1000)]
    with pytest.raises(UserError) as caught:
        indices("y" * 1000, num_classes=1000, names=names)
    assert len(str(caught.value)) < 700
    assert len(legend(range(1000), names, num_classes=1000)) < 1300


@pytest.mark.parametrize(
    ("asked", "part"), [("7", "7"), ("0,1,2", "0_1_2"), ("cat,dog", "cat_dog"), ("none", "none"), ("é", "é")]
)
def test_labels_in_a_file_name_are_what_was_asked(asked, part):
    assert file_part(asked) == part


@pytest.mark.parametrize("asked", ["a/b", "../x", "a b", "$(rm)", "x" * 300, ",".join(map(str, range(200))), "\udcff"])
def test_labels_in_a_file_name_are_safe_short_and_apart(asked):
    part = file_part(asked)
    assert len(part.encode()) < 60
    assert not set(part) & set("/ $()*'\"\n\udcff")
    assert part != file_part(asked + "?")


def test_names_are_kept_where_each_class_has_its_own():
    class Odd:
        def __init__(self, *names):
            self.class_names = names

    assert usable_names(Digits("test"), 10) == tuple("0123456789")
    assert usable_names(Odd("a", "b"), 3) == usable_names(Odd("a", "a"), 2) == usable_names(Odd(1, 2), 2) == ()
    assert usable_names(object(), 2) == ()


def test_data_is_numbered_as_the_run_by_name(tmp_path, capsys):
    data = ImageFolder(folder(tmp_path, "cat", "dog"), size=8, channels=1)
    assert matched(data, ("cat", "dog")) is data
    assert matched(data, ()) is data
    assert capsys.readouterr().out == ""
    other = pickle.loads(pickle.dumps(matched(data, ("dog", "ant", "cat"))))
    told = capsys.readouterr().out
    assert told == "note: the data has the classes cat, dog; they are numbered as in the run: dog, ant, cat\n"
    assert (len(other), other.num_classes, other.class_names) == (8, 3, ("dog", "ant", "cat"))
    assert [int(other[i]["label"]) for i in range(8)] == [2] * 4 + [0] * 4
    assert other[0]["label"].dtype == np.int32
    np.testing.assert_array_equal(other[5]["image"], data[5]["image"])
    with pytest.raises(
        UserError, match=r"^the classes of the data are cat, dog and the classes of the run are cow, dog: use "
    ):
        matched(data, ("cow", "dog"))


def test_names_in_another_unicode_form_are_the_same():
    class Source(list):
        class_names = ("cafe\u0301", "dog")

    assert position("caf\u00e9", Source.class_names) == 0
    assert matched(Source(), ("caf\u00e9", "dog")).class_names == ("caf\u00e9", "dog")
    assert isinstance(matched(Source(), ("dog", "caf\u00e9")), Relabelled)


@pytest.mark.slow
def test_training_keeps_the_names_and_never_mixes_classes_up(tmp_path, capsys):
    """The data is copied, renamed, ordered otherwise and exchanged."""
    data, moved = folder(tmp_path / "train", "cat", "dog"), folder(tmp_path / "moved", "cat", "dog")
    other, config = folder(tmp_path / "val", "ant", "cat"), of_folder(data)
    train.train(config, tmp_path / "run")
    assert config.labels.names == ()
    assert stored_config(tmp_path / "run")["labels"]["names"] == ["cat", "dog"]
    train.train(of_folder(moved, train__num_steps=2), tmp_path / "run")
    capsys.readouterr()
    with pytest.raises(
        UserError, match=r"^the classes of the data are ant, cat and the classes of the run are cat, dog: "
    ):
        train.train(of_folder(other, train__num_steps=3), tmp_path / "run")
    (moved / "dog").rename(moved / "a_dog")
    with pytest.raises(UserError, match=r"are a_dog, cat and the classes of the run are cat, dog"):
        train.train(of_folder(moved, train__num_steps=3), tmp_path / "run")
    run = Run(tmp_path / "run")
    assert (run.step, run.class_names) == (2, ("cat", "dog"))
    run.config.data.path = str(other)
    with pytest.raises(UserError, match="the classes of the run are cat, dog"):
        run.source()


@pytest.mark.slow
def test_names_that_are_given_number_the_data(tmp_path):
    data = folder(tmp_path / "data", "cat", "dog")
    train.train(of_folder(data, labels__names=("dog", "cat")), tmp_path / "run")
    source = Run(tmp_path / "run").source()
    assert [int(source[i]["label"]) for i in (0, 7)] == [1, 0]
    with pytest.raises(UserError, match=r"labels.names is \['dog', 'cat'\] there and \['cat', 'dog'\] here"):
        train.train(of_folder(data, labels__names=("cat", "dog"), train__num_steps=2), tmp_path / "run")


@pytest.mark.slow
def test_a_run_without_names_takes_those_of_the_data_if_their_number_fits(tmp_path, capsys):
    two, three = folder(tmp_path / "two", "cat", "dog"), folder(tmp_path / "three", "ant", "cat", "dog")
    save(tmp_path / "run", of_folder(two))
    source = Run(tmp_path / "run").source()
    told = "note: the run has no class names; those of the data are used, from 0: cat, dog\n"
    assert source.class_names == ("cat", "dog")
    assert capsys.readouterr().out.endswith(told)
    train.train(of_folder(two, train__num_steps=2), tmp_path / "run")
    assert "note: the run had no class names; it uses those of the data from now on: cat, dog" in (
        capsys.readouterr().out
    )
    assert Run(tmp_path / "run").class_names == ("cat", "dog")
    save(tmp_path / "other", of_folder(two))
    with pytest.raises(UserError, match=r"the images have 3 classes, but config.labels.num_classes is 2"):
        train.train(of_folder(three, train__num_steps=2), tmp_path / "other")


@pytest.mark.slow
def test_an_unconditional_run_minds_no_classes(tmp_path):
    config = {"labels__num_classes": 0, "train__num_steps": 1}
    train.train(of_folder(folder(tmp_path / "a", "cat", "dog"), **config), tmp_path / "run")
    assert stored_config(tmp_path / "run")["labels"]["names"] == []
    config["train__num_steps"] = 2
    assert train.train(of_folder(folder(tmp_path / "b", "ant"), **config), tmp_path / "run").step == 2


@pytest.fixture(scope="module")
def conditional(tmp_path_factory, quick_compilation):
    """A run of random parameters, conditioned on cats and dogs."""
    return save(tmp_path_factory.mktemp("runs") / "run", tiny_config(**TWO, diffusion__num_timesteps=4))


def test_names_and_numbers_ask_for_the_same_images(conditional):
    run = Run(conditional)
    dogs = run.configure(labels="dog").sample(3)
    for same in ("1", "#1", 1, [1], np.int32(1)):
        np.testing.assert_array_equal(run.configure(labels=same).sample(3), dogs)
    assert np.any(run.configure(labels="cat").sample(3) != dogs)
    assert run.configure(labels="dog,0").labels() == (1, 0)
    assert run.configure(labels="all").labels() == (0, 1)
    assert run.configure(labels="none").labels() == (2,)


@pytest.mark.parametrize(
    ("arguments", "last"),
    [
        (["--labels=dog"], "class: dog"),
        ([], "classes of the columns: cat, dog"),
        (["--labels=dog,0"], "classes of the columns: dog, cat"),
        (["--labels=none"], "class: no class"),
        (["--out={out}/x.npz"], "classes in turn: cat, dog"),
    ],
)
def test_the_last_line_says_which_class_is_where(conditional, tmp_path, arguments, last):
    arguments = [argument.format(out=tmp_path) for argument in arguments]
    outcome = program("sample.py", f"--workdir={conditional}", "--num_images=2", *arguments)
    assert outcome.status == 0, outcome.err
    assert outcome.out.splitlines()[-1] == last


def test_a_wrong_name_is_one_line_of_the_program(conditional):
    outcome = program("sample.py", f"--workdir={conditional}", "--labels=dgo")
    assert (outcome.status, outcome.err) == (
        1,
        "error: labels=dgo: no class is called 'dgo'; did you mean 'dog'? the classes are cat, dog\n",
    )


def test_files_are_named_by_the_classes(conditional):
    assert program("sample.py", f"--workdir={conditional}", "--num_images=2", "--labels=cat,dog").status == 0
    assert (conditional / "samples_labels_cat_dog_seed0.png").exists()


def test_a_folder_of_samples_minds_the_classes_and_not_how_they_were_asked_for(conditional, tmp_path):
    run, out = Run(conditional), f"{tmp_path}/out/"
    for asked in ("cat,dog", "all", "", "0,1", [0, 1]):
        sample_run(run.configure(labels=asked), out, num_images=1, seed=0)
    with pytest.raises(UserError, match=r"sample.labels is \[0, 1\] there and \[1\] here"):
        sample_run(run.configure(labels="dog"), out, num_images=1, seed=0)
    assert json.loads((tmp_path / "out" / "sampling.json").read_text())["sample"]["labels"] == [0, 1]


def test_accuracy_is_told_by_class_and_never_of_other_classes(tmp_path):
    """Of a source in another order the labels are the run's; a class without images has no accuracy."""
    data, val = folder(tmp_path / "train", "cat", "dog"), folder(tmp_path / "val", "ant", "cat")
    config = of_folder(data, task="classify", labels__names=("cat", "dog"), diffusion__num_timesteps=4)
    run = Run(save(tmp_path / "run", config))
    result = evaluate(run, ["accuracy"], num_steps=1)["accuracy"]
    assert result["class_names"] == ["cat", "dog"]
    assert np.mean(result["accuracy_by_class"]) == result["accuracy"]
    cats, dogs = result["accuracy_by_class"]
    assert table({"accuracy": result})[-1] == f"  by class     cat: {cats:.2f}, dog: {dogs:.2f}"
    only = ImageFolder(folder(tmp_path / "only", "dog"), size=8, channels=1)
    result = evaluate(run, ["accuracy"], source=only, num_steps=1)["accuracy"]
    assert result["accuracy_by_class"] == [None, dogs]
    assert table({"accuracy": result})[-1] == f"  by class     dog: {dogs:.2f}"
    refused = program("evaluate.py", f"--workdir={run.workdir}", "--metrics=accuracy", f"--data_path={val}")
    assert refused.status == 1
    assert "the classes of the data are ant, cat and the classes of the run are cat, dog" in refused.err


def test_the_worst_of_many_classes_are_told():
    many = {
        "accuracy": 0.5, "nll_nats": 1.0, "calibration_error": 0.1, "times": [1], "accuracy_by_t": [0.5],
        "accuracy_by_class": [i / 20 for i in range(20)], "class_names": [f"c{i}" for i in range(20)],
    }  # fmt: skip
    line = table({"accuracy": many})[-1]
    assert line.startswith("  by class     c0: 0.00, c1: 0.05,")
    assert line.endswith("c9: 0.45, and 10 classes with at least that")


def test_the_card_names_the_classes(conditional):
    card = model_card(Run(conditional), "animals", pipelines=[], num_params=1)
    assert "one of 2 classes, numbered from 0; class 2 is the null label: cat, dog. " in card


def test_names_in_no_alphabet_are_kept_shown_and_asked_for(tmp_path):
    """Bytes that are no UTF-8, and an escape."""
    names = ("b\udcff", "red\x1b[31m")
    run = Run(save(tmp_path / "run", tiny_config(**{**TWO, "labels__names": names}, diffusion__num_timesteps=2)))
    assert run.class_names == names
    assert run.configure(labels=names[0]).labels() == (0,)
    card = model_card(run, "x\udcff", pipelines=[], num_params=1)
    assert "b\\udcff, red\\x1b[31m. " in card
    with pytest.raises(UserError, match=r"the classes are b\\udcff, red\\x1b\[31m$"):
        run.configure(labels="blue").labels()
