"""diffusers folders as training leaves them: averaged beside trained weights, shards, variants, schedulers."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from support.tiny import run
from support.torch_file import before_1_6, dict_of, program, storage, tensor
from support.weights import PLAIN, SMALL, Foreign, random_unet, write

from ddpm_jax.convert.incoming import import_weights, understood
from ddpm_jax.convert.names import flat
from ddpm_jax.errors import UserError
from ddpm_jax.runs.run import Run
from ddpm_jax.training.checkpoint import saved_steps

CONVERT = "ddpm_jax/convert/__main__.py"
AVERAGES = {  # what `EMAModel` writes into its config.json
    "decay": 0.995,
    "min_decay": 0.0,
    "optimization_step": 500,
    "update_after_step": 0,
    "use_ema_warmup": True,
    "inv_gamma": 1.0,
    "power": 0.75,
}


def write_shards(folder: Path, foreign: Foreign, *, variant: str = "") -> Path:
    """The folder with the network in it, in two shards and an index named as diffusers names them."""
    write(folder, foreign).joinpath(PLAIN).unlink()
    names, dot = sorted(foreign.weights), f".{variant}" if variant else ""
    table = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"diffusion_pytorch_model{dot}-{number:05}-of-00002.safetensors"
        safetensors.numpy.save_file({name: foreign.weights[name] for name in part}, folder / file)
        table |= dict.fromkeys(part, file)
    index = folder / f"diffusion_pytorch_model.safetensors.index{dot}.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": table}))
    return index


def added(network, foreign: Foreign) -> tuple[float, float | None]:
    """What was added to the weights to sample with and to those before averaging."""
    name = "conv_in.weight"
    both = (network.state_dict, network.raw)
    return tuple(None if w is None else round(float((w[name] - foreign.weights[name]).mean()), 3) for w in both)


def test_a_training_checkpoint_has_trained_and_averaged_weights(foreign, tmp_path):
    write(tmp_path / "checkpoint-500" / "unet", foreign, add=1.0)
    write(tmp_path / "checkpoint-500" / "unet_ema", foreign, add=2.0, **AVERAGES)
    for name in ("optimizer.bin", "scheduler.bin", "random_states_0.pkl", "scaler.pt"):  # accelerate's
        (tmp_path / "checkpoint-500" / name).write_bytes(b"not weights")
    network, config, _ = import_weights(tmp_path / "checkpoint-500", tmp_path / "run")
    assert added(network, foreign) == (2.0, 1.0)
    assert config.optim.ema_decay == 0.995
    assert network.notes == (
        "the parameters of the last step were read from unet/, and the averaged ones from unet_ema/",
    )
    raw, averaged = (Run(tmp_path / "run", params=params).params for params in ("raw", "ema"))
    for ours, theirs_too in zip(jax.tree.leaves(raw), jax.tree.leaves(averaged), strict=True):
        np.testing.assert_allclose(np.asarray(theirs_too) - np.asarray(ours), 1, atol=1e-5)
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    read = [f"{folder}/{file}" for folder in ("unet_ema", "unet") for file in ("config.json", PLAIN)]
    assert [file["name"] for file in provenance["files"]] == read


@pytest.mark.parametrize("given", [".", "unet_ema"])
def test_averaged_weights_alone_are_a_network(given, foreign, tmp_path):
    write(tmp_path / "unet_ema", foreign, add=2.0, **AVERAGES)
    network, _ = understood(tmp_path / given, {})
    assert added(network, foreign) == (2.0, None)


def test_trained_weights_are_read_alone_where_their_folder_is_given(foreign, tmp_path):
    write(tmp_path / "unet", foreign, add=1.0)
    write(tmp_path / "unet_ema", foreign, add=2.0, **AVERAGES)
    assert added(understood(tmp_path / "unet", {})[0], foreign) == (1.0, None)


def test_two_networks_in_one_checkpoint_are_refused(foreign, tmp_path):
    write(tmp_path / "unet", foreign)
    write(tmp_path / "unet_ema", foreign, dropout=0.5, **AVERAGES)
    with pytest.raises(UserError, match=r"unet and .*unet_ema describe different networks; give one of them$"):
        understood(tmp_path, {})


def test_averages_without_weights_are_not_passed_over(foreign, tmp_path):
    write(tmp_path / "unet", foreign)
    write(tmp_path / "unet_ema", foreign).joinpath(PLAIN).unlink()
    with pytest.raises(UserError, match=r"unet_ema contains no diffusers model: it needs config\.json"):
        understood(tmp_path, {})


def test_a_checkpoint_has_the_noise_of_the_training_that_it_is_in(foreign, tmp_path):
    """The example's scheduler stands in the training's folder; without it, the noise would be assumed."""
    checkpoint = tmp_path / "training" / "checkpoint-500"
    write(checkpoint / "unet_ema", foreign, **AVERAGES)
    (tmp_path / "training" / "scheduler").mkdir()
    settings = {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 50}
    (tmp_path / "training" / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings))
    for given, up in ((checkpoint, ".."), (checkpoint / "unet_ema", "../..")):
        network, _ = understood(given, {})
        assert (network.settings["diffusion.schedule"], network.settings["diffusion.num_timesteps"]) == ("cosine", 50)
        assert network.notes == (f"the scheduler's settings were read from {up}/scheduler/scheduler_config.json",)
        assert not network.assumed
    checkpoint.rename(tmp_path / "training" / "other")  # a folder of another name belongs to nothing
    assert understood(tmp_path / "training" / "other", {})[0].settings["diffusion.schedule"] == "linear"


def test_a_checkpoint_of_accelerate_alone_says_what_is_missing(foreign, tmp_path):
    write(tmp_path, foreign, name="model.safetensors", add=1.0)
    assert added(understood(tmp_path, {})[0], foreign) == (1.0, None)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"it needs config\.json beside model\.safetensors$"):
        understood(tmp_path, {})


@pytest.mark.parametrize("variant", ["", "fp16"])
def test_shards_are_one_network(variant, foreign, tmp_path):
    index = write_shards(tmp_path, foreign, variant=variant)
    network, files = understood(tmp_path, {})
    assert network.state_dict.keys() == foreign.weights.keys()
    for name, array in foreign.weights.items():
        np.testing.assert_array_equal(network.state_dict[name], array, err_msg=name)
    assert [file.suffix for file in files] == [".json", ".json", ".safetensors", ".safetensors"]
    assert network.notes == (
        (f"the weights were read from {tmp_path.name}/{index.name}, the variant fp16",) * bool(variant)
    )


def test_pickled_shards_are_read(tmp_path, foreign):
    write(tmp_path, foreign).joinpath(PLAIN).unlink()
    before_1_6(tmp_path / "b.bin", program(dict_of("w", tensor(storage(old=True)))))
    (tmp_path / "diffusion_pytorch_model.bin.index.json").write_text('{"weight_map": {"w": "b.bin"}}')
    np.testing.assert_array_equal(understood(tmp_path, {})[0].state_dict["w"], [1, 2, 3, 4])


FIRST = "diffusion_pytorch_model-00001-of-00002.safetensors"
FAULTS = {
    "no map": ({"weight_map": None}, "names no shards: it has no weight_map"),
    "an empty map": ({"weight_map": {}}, "names no shards: it has no weight_map"),
    "a place above": (
        {"weight_map": {"a": "../b.safetensors"}},
        "names a shard that is not a file of weights in the same folder",
    ),
    "a place of the root": (
        {"weight_map": {"a": "/etc/b.safetensors"}},
        "names a shard that is not a file of weights in the same folder",
    ),
    "a place below": (
        {"weight_map": {"a": "c/b.safetensors"}},
        "names a shard that is not a file of weights in the same folder",
    ),
    "a number": ({"weight_map": {"a": 5}}, "names a shard that is not a file of weights in the same folder"),
    "another file": (
        {"weight_map": {"a": "config.json"}},
        "names a shard that is not a file of weights in the same folder",
    ),
    "a long name": (
        {"weight_map": {"a": 5000 * "n" + ".bin"}},
        "names a shard that is not a file of weights in the same folder",
    ),
    "a shard that is not there": ({"weight_map": {"a": "b.safetensors"}}, "shards that do not exist: b.safetensors"),
    "a tensor twice": ({"weight_map": {"a": FIRST, "b": "copy.safetensors"}}, "that another shard contains too: "),
    "a shard less": ({"weight_map": {"a": FIRST}}, "does not fit the network: missing: "),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_an_index_that_does_not_fit_its_shards_is_one_line(fault, foreign, tmp_path):
    content, reason = FAULTS[fault]
    (tmp_path / "b.safetensors").write_bytes(b"")
    index = write_shards(tmp_path / "in", foreign)
    (tmp_path / "in" / "copy.safetensors").write_bytes((tmp_path / "in" / FIRST).read_bytes())
    index.write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        import_weights(tmp_path / "in", tmp_path / "run")
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 800
    assert not (tmp_path / "run").exists()


def test_plain_weights_come_before_variants_which_are_said(foreign, tmp_path):
    write(tmp_path, foreign, name="diffusion_pytorch_model.fp16.safetensors", add=1.0)
    taken = f"the weights were read from {tmp_path.name}/diffusion_pytorch_model"
    network, _ = understood(tmp_path, {})
    assert added(network, foreign)[0] == 1.0
    assert network.notes == (f"{taken}.fp16.safetensors, the variant fp16",)
    write(tmp_path, foreign, name="diffusion_pytorch_model.bf16.safetensors", add=2.0)
    network, _ = understood(tmp_path, {})
    assert added(network, foreign)[0] == 2.0
    reason = "the variant bf16, not from diffusion_pytorch_model.fp16.safetensors"
    assert network.notes == (f"{taken}.bf16.safetensors, {reason}",)
    write(tmp_path, foreign, add=3.0)
    network, _ = understood(tmp_path, {})
    assert added(network, foreign)[0] == 3.0
    assert network.notes[0].startswith(f"{taken}.safetensors, not from diffusion_pytorch_model.bf16.safetensors, ")


def test_half_precision_and_prefixes_make_the_same_run(foreign, tmp_path):
    """A variant in half precision of a network that was compiled and trained on several GPUs."""
    half = {f"_orig_mod.module.{name}": array.astype(np.float16) for name, array in foreign.weights.items()}
    write(tmp_path / "in", foreign).joinpath(PLAIN).unlink()
    safetensors.numpy.save_file(half, tmp_path / "in" / "diffusion_pytorch_model.fp16.safetensors")
    import_weights(tmp_path / "in", tmp_path / "half")
    import_weights(write(tmp_path / "whole", foreign), tmp_path / "run")
    ours, expected = (flat(Run(tmp_path / name).params) for name in ("half", "run"))
    for path, leaf in expected.items():
        assert ours[path].dtype == np.float32
        np.testing.assert_array_equal(ours[path], np.asarray(leaf).astype(np.float16).astype(np.float32), err_msg=path)


@pytest.mark.parametrize("which", ["unet", "unet_ema"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(value, which, foreign, tmp_path):
    for folder in ("unet", "unet_ema"):
        write(tmp_path / "in" / folder, foreign)
    broken = {name: array.copy() for name, array in foreign.weights.items()}
    broken["conv_out.weight"].flat[3] = value
    safetensors.numpy.save_file(broken, tmp_path / "in" / which / PLAIN)
    outcome = run(CONVERT, tmp_path / "in", f"--out={tmp_path / 'run'}")
    assert outcome.status == 1
    where = {"unet": "in, before averaging, has", "unet_ema": "in has"}[which]
    reason = "weights that are not finite (NaN, infinite, or too large for float32), in conv_out.weight; use an earlier"
    assert f"{where} {reason}" in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "run").exists()


def test_numbers_beyond_float32_are_not_finite(foreign, tmp_path):
    large = {name: array.astype(np.float64) for name, array in foreign.weights.items()}
    large["conv_in.bias"][0] = 1e300
    write(tmp_path, foreign)
    safetensors.numpy.save_file(large, tmp_path / PLAIN)
    with pytest.raises(UserError, match=r"weights that are not finite .*, in conv_in\.bias;"):
        import_weights(tmp_path, tmp_path / "run")


def test_the_program_says_what_it_read(foreign, tmp_path):
    write(tmp_path / "in", foreign, name="diffusion_pytorch_model.fp16.safetensors")
    (tmp_path / "in" / "scheduler_config.json").write_text('{"_class_name": "PNDMScheduler"}')
    outcome = run(CONVERT, tmp_path / "in", f"--out={tmp_path / 'run'}")
    assert outcome.status == 0, outcome.err
    assert (
        "note: PNDMScheduler is not available here: its noise schedule is used, and the run samples with ddim\n"
        in outcome.out
    )
    assert (
        "note: the weights were read from in/diffusion_pytorch_model.fp16.safetensors, the variant fp16\n"
        in outcome.out
    )
    assert saved_steps(tmp_path / "run" / "checkpoints") == [0]


def same_tensors(state_dict: dict, tensors: dict) -> None:
    """Asserts that two state dicts are equal bit for bit."""
    assert state_dict.keys() == tensors.keys()
    for name, expected in tensors.items():
        np.testing.assert_array_equal(state_dict[name], expected.numpy(), err_msg=name)


def test_what_diffusers_writes_in_training_is_read(diffusers, tmp_path):
    """`EMAModel` beside the network, shards, variants, pickles: the same numbers as diffusers has."""
    import torch
    from diffusers.training_utils import EMAModel

    unet = random_unet(diffusers, {**SMALL["google"], "sample_size": (8, 8), "in_channels": 1, "out_channels": 1})
    average = EMAModel(unet.parameters(), model_cls=diffusers.UNet2DModel, model_config=unet.config)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.01)
    unet.save_pretrained(tmp_path / "both" / "unet")
    average.save_pretrained(tmp_path / "both" / "unet_ema")
    network, _ = understood(tmp_path / "both", {})
    same_tensors(network.raw, unet.state_dict())
    names = [name for name, _ in unet.named_parameters()]
    same_tensors(network.state_dict, dict(zip(names, average.shadow_params, strict=True)))
    for form in ({"max_shard_size": "300KB"}, {"variant": "fp16"}, {"max_shard_size": "300KB", "variant": "fp16"}):
        for safe in (True, False):
            folder = tmp_path / f"{'_'.join(form)}_{safe}"
            unet.save_pretrained(folder, safe_serialization=safe, **form)
            assert bool(list(folder.glob("*-of-*"))) == ("max_shard_size" in form)
            same_tensors(understood(folder, {})[0].state_dict, unet.state_dict())
