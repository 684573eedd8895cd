"""The evaluation of a run: files, table, sums, and numbers that depend on neither batch size nor devices."""

import json
import re
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image
from support.networks import random_params
from support.tiny import run as run_program
from support.tiny import save, tiny_config

from ddpm_jax import factory
from ddpm_jax.config import to_json
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import likelihoods
from ddpm_jax.evaluation.evaluate import METRICS as ALL_METRICS
from ddpm_jax.evaluation.evaluate import Images, Metric, evaluate, table
from ddpm_jax.evaluation.likelihoods import standard_error
from ddpm_jax.runs.run import Run
from ddpm_jax.runtime.devices import device_mesh, replicated
from ddpm_jax.runtime.images import from_uint8
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.divergence import no_steps
from ddpm_jax.training.state import TrainState

pytestmark = pytest.mark.usefixtures("quick_compilation")

METRICS = [name for name, metric in ALL_METRICS.items() if metric.task == "denoise"]
T = 12
NUM_IMAGES = 11


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run at step 3 with random parameters, the averaged ones others than the trained."""
    workdir = tmp_path_factory.mktemp("run")
    config = tiny_config(
        diffusion__num_timesteps=T,
        diffusion__beta_end=0.5,
        diffusion__learned_variance=True,
        loss__kind="hybrid",
        sample__variance="learned",
        sample__grid="uniform",
    )
    model, inputs = factory.network(config), (np.zeros((1, 8, 8, 1)), np.zeros(1), None)
    raw, ema = (random_params(model, *inputs, seed=seed) for seed in (0, 1))
    state = TrainState(np.int32(3), raw, ema, opt_state=(), times=(), key=jax.random.key(0), recent=no_steps())
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(state, to_json(config))
    return workdir


@pytest.fixture(scope="module")
def measured(workdir, quick_compilation):
    """The run, its images, and what the evaluation says of eleven of them."""
    run = Run(workdir)
    source = factory.source(run.config)
    results = evaluate(run, list(METRICS), source=source, num_images=NUM_IMAGES, batch_size=100)
    return SimpleNamespace(run=run, source=source, results=results)


def test_results_are_written_as_json_and_plots(measured, workdir):
    folder = workdir / "evaluation"
    for name, result in measured.results.items():
        assert json.loads((folder / f"{name}.json").read_text()) == result
        assert (result["step"], result["params"], result["num_images"]) == (3, "ema", NUM_IMAGES)
    for name in ("bpd", "spectrum"):
        with Image.open(folder / f"{name}.png") as image:
            assert min(image.size) > 200
    assert sorted(path.name for path in folder.iterdir()) == [
        "bpd.json",
        "bpd.png",
        "nll.json",
        "results.jsonl",
        "spectrum.json",
        "spectrum.png",
    ]


def test_the_parts_of_the_bound_sum_up(measured):
    result = measured.results["bpd"]
    parts = result["L_T"] + result["L_between"] + result["L_0"]
    np.testing.assert_allclose(result["bits_per_dim"], parts, rtol=1e-6)
    np.testing.assert_allclose(sum(result["terms"]), result["L_between"] + result["L_0"], rtol=1e-6)
    np.testing.assert_allclose(result["terms"][-1], result["L_0"], rtol=1e-6)
    assert result["times"] == [float(t) for t in range(T, 0, -1)]
    assert len(result["eps_mse"]) == T
    assert result["variance"] == "learned"
    assert result["standard_error"] > 0


def test_l_t_is_that_of_the_images(measured):
    """`KL(N(sqrt(a) x_0, 1 - a), N(0, 1))`, bits per dimension, of the images themselves."""
    a = factory.noise_schedule(measured.run.config).alpha_bar[-1]
    chosen = [i * len(measured.source) // NUM_IMAGES for i in range(NUM_IMAGES)]  # evenly spaced
    x_0 = np.stack([measured.source[i]["image"] for i in chosen]) / 127.5 - 1
    expected = np.mean(0.5 * (a * x_0**2 - a - np.log1p(-a))) / np.log(2)
    np.testing.assert_allclose(measured.results["bpd"]["L_T"], expected, rtol=1e-4)


def test_the_table_says_what_was_measured(measured):
    lines = table(measured.results)
    bpd, nll = measured.results["bpd"], measured.results["nll"]
    text = "\n".join(lines)
    assert len(lines) == 8
    ode = (nll["bits_per_dim"], nll["with_decoder"]["bits_per_dim"])
    for number in (bpd["bits_per_dim"], bpd["L_between"], bpd["L_0"], *ode):
        assert f"{number:.4f}" in text
    assert f"({T - 1} terms)" in text
    assert "\n  12 steps, exact trace" in text
    assert f"(error of the solver {nll['solver_error']:.1g})" in text
    assert "4: " in lines[-1]


def test_an_estimated_trace_states_its_error(measured, monkeypatch):
    """As that of larger images; with its own error it agrees with the exact one."""
    monkeypatch.setattr(likelihoods, "_EXACT_TRACE_DIMS", 63)
    images = Images(measured.source, num_images=NUM_IMAGES, batch_size=100, mesh=measured.run.mesh)
    result, exact = likelihoods.exact_likelihood(measured.run, images, num_steps=0), measured.results["nll"]
    assert (result["trace"], result["num_probes"], exact["num_probes"], exact["trace_error"]) == ("hutchinson", 4, 0, 0)
    for ours, theirs in ((result, exact), (result["with_decoder"], exact["with_decoder"])):
        assert 0 < abs(ours["bits_per_dim"] - theirs["bits_per_dim"]) < 4 * ours["trace_error"]
    lines = table({"nll": result})
    assert lines[-1] == "  12 steps, trace by 4 random directions"
    assert f", of the trace {result['trace_error']:.1g})" in lines[1]


def test_the_spectrum_has_a_row_for_every_frame(measured):
    result = measured.results["spectrum"]
    assert result["times"] == [float(t) for t in range(T, -1, -1)]
    for name in ("forward", "reverse", "estimate_of_x_0"):
        assert np.shape(result[name]) == (T + 1, 5)
    np.testing.assert_allclose(result["forward"][-1], result["data"], rtol=1e-6)
    assert len(result["settling_time"]) == 5


def assert_same(results, others):
    for name, result in results.items():
        for key, value in result.items():
            if isinstance(value, float | list) and key != "settling_time":
                np.testing.assert_allclose(others[name][key], value, rtol=2e-4, atol=2e-5, err_msg=f"{name}: {key}")


@pytest.mark.parametrize("name", ["bpd", "spectrum", pytest.param("nll", marks=pytest.mark.slow)])
def test_neither_batches_nor_devices_matter(name, measured, workdir):
    """Eleven images at once on eight devices, and in three batches, the last filled up, on one."""
    assert measured.run.mesh.size == 8
    run = Run(workdir)
    run.mesh = device_mesh(jax.devices()[:1])
    run.params = jax.device_put(jax.device_get(run.params), replicated(run.mesh))
    again = evaluate(run, [name], source=measured.source, num_images=NUM_IMAGES, batch_size=4)
    assert_same({name: measured.results[name]}, again)


def test_other_parameters_and_a_shorter_chain_give_other_numbers(measured, workdir):
    run = Run(workdir, params="raw")
    raw = evaluate(run, ["bpd"], source=measured.source, num_images=NUM_IMAGES, num_steps=3)["bpd"]
    assert (raw["params"], raw["times"]) == ("raw", [12.0, 7.0, 1.0])
    assert raw["bits_per_dim"] != measured.results["bpd"]["bits_per_dim"]


def test_the_help_names_every_metric():
    shown = run_program("evaluate.py", "--help").out
    assert all(re.search(rf"\b{name}\b", shown) for name in ALL_METRICS)


class Few:
    """A source of five images, each of one grey."""

    num_classes, class_names = 0, ()

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return {"image": np.full((8, 8, 1), 10 * range(5)[index], np.uint8), "label": np.int32(0)}


def test_images_fewer_than_asked_are_counted_once_each():
    images = Images(Few(), num_images=100, batch_size=64, mesh=device_mesh())
    (batch,) = list(images)
    x_0, _, image_keys, count = batch
    assert (len(images), images.num_images, count, x_0.shape) == (1, 5, 5, (8, 8, 8, 1))
    np.testing.assert_allclose(x_0[:5, 0, 0, 0], np.arange(5) * 10 / 127.5 - 1, rtol=1e-6)
    assert len(np.unique(jax.random.key_data(image_keys[:5]), axis=0)) == 5


def test_every_image_comes_once_with_its_own_key_in_any_batches():
    whole = {}
    for batch_size in (64, 2):
        images = Images(Few(), num_images=4, batch_size=batch_size, mesh=device_mesh(jax.devices()[:2]))
        seen = [
            (float(x_0[i, 0, 0, 0]), tuple(jax.random.key_data(image_keys[i]).tolist()))
            for x_0, _, image_keys, count in images
            for i in range(count)
        ]
        assert len(images) == {64: 1, 2: 2}[batch_size]
        whole[batch_size] = seen
    assert whole[64] == whole[2]
    assert len(set(whole[2])) == 4


def test_images_are_spread_over_a_source_that_lists_its_classes_one_after_the_other():
    (batch,) = list(Images(Few(), num_images=2, batch_size=2, mesh=device_mesh(jax.devices()[:2])))
    np.testing.assert_allclose(batch[0][:, 0, 0, 0], np.array([0, 20]) / 127.5 - 1, rtol=1e-6)


def test_an_unknown_metric_is_refused_before_anything_is_measured(measured, workdir):
    before = (workdir / "evaluation" / "nll.json").stat().st_mtime_ns
    with pytest.raises(UserError, match=r"'fido'; did you mean 'fid'\?$"):
        evaluate(measured.run, ["nll", "fido"], source=Few(), num_images=5)
    assert (workdir / "evaluation" / "nll.json").stat().st_mtime_ns == before


def last_replaced(value, new):
    """The value with its last number replaced, however deep in lists and dicts that is."""
    if isinstance(value, list):
        return [*value[:-1], last_replaced(value[-1], new)]
    return {**value, "bits_per_dim": new} if isinstance(value, dict) else new


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", METRICS)
def test_a_result_that_is_not_finite_is_one_line_and_not_written(name, value, measured, workdir, monkeypatch):
    """Wherever in the result it is; earlier results stay."""
    path = workdir / "evaluation" / f"{name}.json"
    before = path.read_bytes()
    good = {key: of for key, of in measured.results[name].items() if key not in ("step", "params", "num_images")}
    for key in [key for key, of in good.items() if not isinstance(of, str)]:
        broken = {**good, key: last_replaced(good[key], value)}
        broken_metric = ALL_METRICS[name]._replace(measure=lambda *args, broken=broken, **kwargs: broken)
        monkeypatch.setitem(ALL_METRICS, name, broken_metric)
        with pytest.raises(
            UserError, match=rf"^{name} was not written, because it is not finite \({key}\): "
        ) as caught:
            evaluate(measured.run, [name], source=measured.source, num_images=NUM_IMAGES)
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == before


def test_a_run_that_names_no_images_asks_for_them(tmp_path):
    """As one of converted weights."""
    save(tmp_path, tiny_config(data__source="folder", data__path=""))
    outcome = run_program("evaluate.py", f"--workdir={tmp_path}")
    assert outcome.status == 1
    said = "does not name its images: give their folder with --data_path=FOLDER"
    assert outcome.err == f"error: the run in {tmp_path} {said}\n"


def test_digits_have_no_other_folder(tmp_path):
    save(tmp_path, tiny_config())
    outcome = run_program("evaluate.py", f"--workdir={tmp_path}", "--data_path=nowhere")
    assert outcome.status == 1
    assert outcome.err.startswith("error: --data_path does not apply to this run: the digits are built in;")


@pytest.mark.filterwarnings("ignore:.*cannot be read.*")
def test_unreadable_files_can_be_passed_over_in_measuring_too(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(3):
        Image.new("L", (8, 8), 80 * i).save(pictures / f"{i}.png")
    (pictures / "1.png").write_bytes(b"no picture")
    save(tmp_path / "run", tiny_config(data__source="folder", data__path=str(pictures)))
    command = ("evaluate.py", f"--workdir={tmp_path / 'run'}", "--metrics=bpd", "--num_images=3")
    stopped = run_program(*command)
    assert stopped.status == 1
    assert stopped.err.splitlines()[-1].endswith("(evaluate.py --skip_unreadable)")
    assert run_program(*command, "--skip_unreadable").status == 0


@pytest.mark.parametrize("metric", METRICS)
def test_too_many_steps_are_a_users_mistake(measured, metric):
    with pytest.raises(UserError, match=r"cannot (make a chain of|solve the ODE in) 99 steps"):
        evaluate(measured.run, [metric], source=Few(), num_images=5, num_steps=99)


def test_a_standard_error_is_the_deviation_over_the_root_of_the_number():
    values = np.array([1.0, 2.0, 4.0, 7.0])
    assert standard_error(values) == pytest.approx(np.sqrt(np.sum((values - 3.5) ** 2) / 3 / 4))
    assert standard_error(values[:1]) == 0


def test_a_metric_of_a_program_is_measured_and_written(measured, tmp_path):
    """Here the mean of the images, which is known."""
    shutil.copytree(measured.run.workdir, tmp_path / "run")

    def mean(run, images, *, num_steps):
        x_0 = np.concatenate([np.asarray(x_0)[:count] for x_0, _, _, count in images])
        return {"mean": float(x_0.mean()), "num_steps": num_steps}

    run = Run(tmp_path / "run")
    results = evaluate(run, {"brightness": Metric(mean)}, source=measured.source, num_images=3, num_steps=7)
    chosen = [measured.source[i]["image"] for i in np.arange(3) * len(measured.source) // 3]
    assert results["brightness"]["mean"] == pytest.approx(from_uint8(np.stack(chosen)).mean(), rel=1e-5)
    assert json.loads((tmp_path / "run/evaluation/brightness.json").read_text()) == results["brightness"]
    assert table(results)[0] == "brightness"
    assert "  num_steps    7" in table(results)
    with pytest.raises(
        UserError, match=r" has config.task=denoise: choose the metrics from bpd, nll, spectrum, .*, or write Metric"
    ):
        evaluate(run, {"brightness": Metric(mean, task="classify")}, source=measured.source)
