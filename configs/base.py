"""Every configuration key with its default and its meaning; the other files of this folder change some of them.

A key is overridden on the command line by its path, `--config.optim.learning_rate=1e-4`. Every checkpoint of a run
contains the configuration, so sampling does not need it again.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The base configuration: Ho et al. 2020's network and training for 32x32 images."""
    config = ConfigDict()
    config.name = "base"  # names the default work directory, runs/NAME
    config.task = "denoise"  # what is trained: denoise | classify (noisy images, to guide a denoiser)
    config.seed = 0  # seed of all randomness: initialisation, data order, times, noise, dropout
    config.data = _data()
    config.labels = _labels()
    config.diffusion = _diffusion()
    config.network = "configured"  # configured: as config.model says | custom: given to train() by a program
    config.model = _model()
    config.loss = _loss()
    config.posterior = _posterior()
    config.optim = _optim()
    config.train = _train()
    config.mesh = _mesh()
    config.sample = _sample()
    config.checkpoint = _checkpoint()
    config.log = _log()
    return config.lock()


def _data() -> ConfigDict:
    """The images and how they are read."""
    data = ConfigDict()
    data.source = "folder"  # digits: built in | folder: of images | tfds: a prepared set | custom: given to train()
    data.path = ""  # folder: its path; tfds: the data_dir ("" for ~/tensorflow_datasets)
    data.name = ""  # tfds: name of the data set, such as "cifar10" or "lsun/church"
    data.split = "train"  # digits: train | test | all; tfds: any split, such as "train" or "train[:90%]"
    data.label = "label"  # tfds: feature that contains the class, such as "attributes/Smiling" of celeb_a
    data.image_size = 32  # side of the square input images of the network, in pixels
    data.channels = 3  # 3 for colour, 1 for grey
    data.crop = ()  # (left, top, right, bottom) box cut out before resizing; () for the largest centred square
    data.random_flip = True  # mirror training images left to right at random
    data.skip_unreadable = False  # skip files that cannot be read and print their names, instead of stopping
    data.on_device = False  # read the whole data set at the start and keep it on every device; for small data sets
    data.num_workers = 0  # processes that decode images; 0 decodes in a thread of the training process
    return data


def _labels() -> ConfigDict:
    """The classes of the images."""
    labels = ConfigDict()
    labels.num_classes = 0  # number of classes of a conditional model or a classifier; 0 for an unconditional model
    labels.names = ()  # names of the classes, in the order of their numbers; () takes those of the data and keeps them
    labels.dropout = 0.0  # share of training images that get the null label; 0.1 for classifier-free guidance
    return labels


def _diffusion() -> ConfigDict:
    """The forward process and the target of the network."""
    diffusion = ConfigDict()
    diffusion.schedule = "linear"  # linear | cosine | quadratic | sigmoid
    diffusion.num_timesteps = 1000  # T, the number of noise levels
    diffusion.beta_start = 1e-4  # beta_1 (not for cosine)
    diffusion.beta_end = 0.02  # beta_T (not for cosine)
    diffusion.target = "eps"  # what the network predicts: eps | x_0 | v
    diffusion.learned_variance = False  # the network also predicts the variance, between beta_tilde and beta
    return diffusion


def _model() -> ConfigDict:
    """The network: the fields of `ddpm_jax.models.Architecture`."""
    model = ConfigDict()
    model.channels = 128  # base width, in channels
    model.channel_mult = (1, 2, 2, 2)  # width of each level over the base; each level but the last halves the image
    model.num_res_blocks = 2  # residual blocks per level
    model.attention_resolutions = (16,)  # image heights, in pixels, at which there is self-attention
    model.num_heads = 1  # attention heads, if head_channels is 0
    model.head_channels = 0  # channels per attention head; 0 uses num_heads
    model.dropout = 0.1  # dropout rate in the residual blocks
    model.scale_shift_norm = False  # ADM: the time embedding scales and shifts the norm
    model.resample_in_block = False  # ADM: residual blocks resample the image
    model.padding = "same"  # padding of stride-2 convolutions: same (Ho) | symmetric (ADM)
    model.time_embedding = "sin_cos"  # order of its two halves: sin_cos (Ho) | cos_sin (ADM)
    model.time_scale = 1.0  # factor of the time index; 1000/T for the weights of improved diffusion
    model.norm_groups = 32  # groups of each GroupNorm
    model.norm_epsilon = 1e-6  # epsilon of each GroupNorm: 1e-6 (Ho) | 1e-5 (ADM)
    model.dtype = "float32"  # type of the computation: float32 | bfloat16; parameters, norms, softmax stay float32
    model.remat = False  # recompute activations in the backward pass: less memory, about a third more time
    return model


def _loss() -> ConfigDict:
    """The training loss."""
    loss = ConfigDict()
    loss.kind = "simple"  # simple | hybrid (with the bound, for a learned variance) | vlb (the bound) | custom (given)
    loss.weight = "eps"  # weight of the squared error: eps (L_simple) | x_0 | v | min_snr (gamma 5) | p2 (gamma 1)
    loss.vlb_weight = 0.001  # weight of the bound in the hybrid loss
    loss.times = "uniform"  # how training times are drawn: uniform | antithetic | importance (by the loss, for vlb)
    return loss


def _posterior() -> ConfigDict:
    """The posterior over the weights of a classifier."""
    posterior = ConfigDict()
    posterior.weights = "none"  # weights of a classifier that are random: none | last (its output layer) | all
    posterior.prior_std = 1.0  # standard deviation of their Gaussian prior
    posterior.init_std = 0.05  # standard deviation of the posterior at the start
    posterior.num_samples = 8  # samples of the weights over which a prediction is averaged
    posterior.samples_per_step = 1  # samples per train step, one per part of the batch; more: less noise, more memory
    return posterior


def _optim() -> ConfigDict:
    """Adam, its learning rate, and the average of the parameters."""
    optim = ConfigDict()
    optim.learning_rate = 2e-4  # learning rate of Adam, constant after the warm-up
    optim.warmup_steps = 5000  # steps of linear warm-up from 0
    optim.grad_clip = 1.0  # global norm to which gradients are clipped; 0 for no clipping
    optim.beta_1 = 0.9  # decay of Adam's first moment
    optim.beta_2 = 0.999  # decay of Adam's second moment
    optim.epsilon = 1e-8  # Adam's epsilon
    optim.ema_decay = 0.9999  # decay of the average of the parameters: min(decay, (1 + n) / (10 + n)) at step n
    return optim


def _train() -> ConfigDict:
    """The length of the training and its batches."""
    train = ConfigDict()
    train.batch_size = 128  # images per step, over all devices and hosts
    train.num_steps = 800_000  # number of optimiser steps
    train.accumulation = 1  # parts of a batch that are computed one after the other, to save memory
    return train


def _mesh() -> ConfigDict:
    """How the state is sharded over the devices."""
    mesh = ConfigDict()
    mesh.fsdp = 1  # devices over which parameters, averages and optimiser state are sharded; 1 for a copy on each
    return mesh


def _sample() -> ConfigDict:
    """The reverse process."""
    sample = ConfigDict()
    sample.sampler = "ancestral"  # ancestral | ddim | heun | dpm_solver_pp_2m | euler_maruyama | langevin
    sample.variance = "large"  # variance of the ancestral step: large (beta) | small (beta_tilde) | learned
    sample.eta = 0.0  # share of noise in DDIM: 0 (deterministic) to 1 (ancestral)
    sample.corrector_steps = 0  # Langevin steps after each step of any sampler
    sample.corrector_snr = 0.16  # signal-to-noise ratio of these Langevin steps
    sample.num_steps = 0  # steps of the reverse process; 0 for all T
    sample.grid = "trailing"  # spacing of the timesteps: trailing | uniform | quadratic | log_snr | karras
    sample.labels = ""  # classes in turn, by name or number: "cat,dog", "7", "all", "none" (null label); "" for all
    sample.guidance_scale = 1.0  # classifier-free, 1 + w of the notes: 0 unconditional, 1 conditional, above 1 guided
    sample.classifier_scale = 1.0  # factor of the gradient of the classifier, if one guides the sampling
    sample.clip_x_0 = True  # clip each estimate of the clean image to [-1, 1]
    return sample


def _checkpoint() -> ConfigDict:
    """When the run is saved, and which checkpoints are kept."""
    checkpoint = ConfigDict()
    checkpoint.every = 10_000  # steps between regular checkpoints
    checkpoint.every_minutes = 10.0  # minutes after the last save at which the run is saved too; 0 for steps alone
    checkpoint.keep = 3  # number of the latest regular checkpoints that are kept; the newest two of all are kept too
    checkpoint.keep_every = 100_000  # steps between checkpoints that are never deleted; 0 for none
    return checkpoint


def _log() -> ConfigDict:
    """When the run is logged, and which previews are drawn."""
    log = ConfigDict()
    log.every = 100  # steps between lines of the log
    log.preview_every = 10_000  # steps between previews (grids of samples, raw and averaged parameters); 0 for none
    log.preview_images = 64  # images per preview
    log.preview_steps = 100  # steps of the chain that draws a preview
    return log
