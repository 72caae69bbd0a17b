"""Tiny VAEs of images with planted classes, and the same in torch's own layers; shared by tests."""

import functools
import sys

import numpy as np
import torch
from torch.distributions import Normal, kl_divergence

import oracles
from experiment import vae_target_linearity, vae_train
from lab import runs
from lab.models import VAE
from lab.replicas import Replica, generator

SHAPE, TRAIN, TEST, CLASSES, PIXELS = (1, 5, 4), 60, 40, 10, 20
BETAS, SEEDS, EPOCHS, HIDDEN, LATENT, SAMPLES = (0.1, 1.0, 10.0), (0, 3), 3, 9, 3, 50
SIZES = {"seeds": SEEDS, "epochs": EPOCHS, "hidden": HIDDEN, "latent": LATENT}
SIZES |= {"samples": SAMPLES, "batch_size": 16, "learning_rate": 0.03}
STEPS, PAIRS = 5, 4000
GRID = [(b, s) for b in range(len(BETAS)) for s in range(len(SEEDS))]
REPLICAS = [Replica(SEEDS[s], {"lr": 0.03}, {"beta": BETAS[b]}) for b, s in GRID]


def write_data(path, classes=CLASSES, shape=SHAPE, scale=None):
    """Planted classes, some pixels black or white; uint8, or floats times `scale`."""
    rng, parts = np.random.default_rng(0), {}
    pattern = rng.integers(-60, 315, (classes, *shape))
    for part, n in (("train", TRAIN), ("test", TEST)):
        y = np.arange(n)[::-1] % classes
        # test images are paler, so that the best epoch is not the last
        shown = pattern if part == "train" else 76 + 0.4 * pattern
        x = (shown[y] + rng.integers(-40, 40, (n, *shape))).clip(0, 255).astype(np.uint8)
        x = np.moveaxis(x, 1, -1) if len(shape) == 3 else x
        parts |= {f"x_{part}": x if scale is None else scale * (x / 255), f"y_{part}": y}
    np.savez(path, **parts)
    return path


class Trained:
    """The data, the configurations of both scripts, and what vae_train.py leaves in a folder."""

    def __init__(self, folder):
        self.dataset = str(write_data(folder / "planted.npz"))
        where = {"datasets": (self.dataset,), "results": folder / "results", "device": "cpu"}
        self.train_config = vae_train.Config(betas=BETAS, **where, **SIZES)
        own = {"betas": BETAS, "seeds": SEEDS, "steps": STEPS, "pairs": PAIRS}
        self.config = vae_target_linearity.Config(**own, **where)
        self.configs = self.config, self.train_config
        self.images = vae_train.load_images(self.config, self.dataset)
        self.plan = vae_train.plan(self.train_config, self.images)
        parts = [vae_train.run(self.train_config, self.dataset, [r]) for r in REPLICAS]
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        self.arrays = runs.unflatten(arrays, len(BETAS), len(SEEDS))  # (beta, seed, epoch)

    def restore(self, b, s, epoch):
        """A checkpoint as plain networks, read by torch alone, and what it was made from."""
        return restore(self.plan, BETAS[b], SEEDS[s], epoch)

    @functools.cached_property
    def measured(self):
        """The images that are measured, scaled."""
        return vae_train.measured_images(self.train_config, self.images) / 255


class Plain:
    """One replica of a VAE in torch's own layers."""

    def __init__(self, model, r=0):
        self.encoder = oracles.torch_layers(model.encoder, r)
        self.decoder = oracles.torch_layers(model.decoder, r)

    def parameters(self):
        return [*self.encoder.parameters(), *self.decoder.parameters()]

    def mean(self, x):
        return self.encoder(x)[:, :LATENT]

    def decode(self, z):
        return self.decoder(z).sigmoid()

    def terms(self, x, noise):
        """Binary cross-entropy, divergence and squared error of each image."""
        out = self.encoder(x)
        posterior = Normal(out[:, :LATENT], (out[:, LATENT:] / 2).exp())
        pixels, x = self.decode(posterior.loc + noise * posterior.scale), x.flatten(1)
        likelihood = (x * pixels.log() + (1 - x) * (1 - pixels).log()).sum(1)
        prior = Normal(torch.zeros(()).to(x), torch.ones(()).to(x))
        divergence = kl_divergence(posterior, prior).sum(1)
        return -likelihood, divergence, ((pixels - x) ** 2).mean(1)


def build(seeds, dtype=torch.float64):
    generators = [generator(seed, "weights") for seed in seeds]
    return VAE(PIXELS, HIDDEN, LATENT, generators).to(dtype)


def restore(plan, beta, seed, epoch):
    content = torch.load(vae_train.checkpoint_path(plan[beta], seed, epoch), weights_only=True)
    model = build([0], torch.float32)
    model.load_state_dict(content["state"])
    return Plain(model), content["origin"]


def measurement_noise(samples):
    return torch.randn(samples, LATENT, generator=generator(0, "measurement"))


def run_script(monkeypatch, module, folder, *words):
    """Run one of the two scripts at tiny size, with results below a folder."""
    sizes = ["--betas", "0.1", "1", "--seeds", "0", "3"]
    trained = ["--epochs", "1", "--hidden", "4", "--latent", "2"]
    sizes += ["--pairs", "3"] if module is vae_target_linearity else trained
    where = ["--device", "cpu", "--jobs", "1", "--results", folder / "results"]
    argv = [module.__file__, *sizes, *where, *words]
    monkeypatch.setattr(sys, "argv", [str(word) for word in argv])
    module.main()


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
