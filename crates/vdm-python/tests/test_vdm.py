"""The package against the program: `VDM=target/release/vdm pytest crates/vdm-python/tests`."""

import csv
import json
import os
import subprocess
import threading

import numpy as np
import pytest

import vdm

PROGRAM = os.environ.get("VDM", "target/release/vdm")


@pytest.fixture(scope="module")
def digits():
    return vdm.load("digits")


def run(*args):
    return subprocess.run([PROGRAM, *map(str, args)], check=True, capture_output=True).stdout


def test_what_a_model_says(digits):
    assert digits.shape == (1, 8, 8) and digits.levels == 17 and digits.classes == 0
    assert "licence" in digits.about and digits.step > 0
    assert "digits" in vdm.models() and "1x8x8" in repr(digits)


def test_samples_are_those_of_the_program(digits, tmp_path):
    images = digits.sample(5, seed=3, steps=20)
    assert images.dtype == np.uint8 and images.shape == (5, 1, 8, 8)
    run("sample", "digits", "--count", 5, "--seed", 3, "--steps", 20, "--separate", "-o", tmp_path / "images")
    data = run("compress", "digits", tmp_path / "images", "--no-fallback", "--timesteps", 3, "-o", "-")
    assert (digits.decompress(data) == images).all()
    one = digits.sample(1, seed=3, first=4, steps=20, batch_size=1)
    assert (one[0] == images[4]).all()
    assert (digits.sample(5, seed=3, steps=20, layout="NHWC") == images.transpose(0, 2, 3, 1)).all()


def test_bits_are_those_of_the_program(digits, tmp_path):
    table = tmp_path / "rows.csv"
    report = json.loads(run("eval", "digits", "--repeats", 2, "--per-image", table, "--json"))
    rows = list(csv.DictReader(table.open()))
    run("compress", "digits", "--timesteps", 1, "--no-verify", "-o", tmp_path / "test.vdmz")
    images = digits.decompress((tmp_path / "test.vdmz").read_bytes())
    bits, errors = digits.bits_per_dim(images, repeats=2, return_stderr=True)
    assert bits.tolist() == [float(row["bpd"]) for row in rows]
    assert errors.tolist() == [float(row["bpd_stderr"]) for row in rows]
    assert abs(bits.mean() - report["bpd"]) < 1e-9
    assert (digits.bits_per_dim(images, repeats=2, batch_size=7) == bits).all()
    in_steps = digits.bits_per_dim(images, repeats=2, timesteps=20)
    paper = digits.with_reverse_variance("posterior").bits_per_dim(images, repeats=2, timesteps=20)
    assert bits.mean() < in_steps.mean() < paper.mean()


def test_files_are_those_of_the_program(digits, tmp_path):
    images = digits.sample(6, steps=10)
    data = digits.compress(images, steps=8)
    assert (digits.decompress(data) == images).all()
    (tmp_path / "a.vdmz").write_bytes(data)
    idx = run("decompress", tmp_path / "a.vdmz", "-o", "-")
    assert idx[16:] == images.tobytes()


@pytest.mark.parametrize("variance", ["posterior", "step", "pixel"])
def test_files_of_any_variance_can_be_read(digits, variance, tmp_path):
    images = digits.sample(3, steps=10)
    data = digits.with_reverse_variance(variance).compress(images, steps=8)
    assert (digits.decompress(data) == images).all()
    (tmp_path / "a.vdmz").write_bytes(data)
    assert run("decompress", tmp_path / "a.vdmz", "-o", "-")[16:] == images.tobytes()


def test_an_embedded_model_is_the_one_that_codes(digits, tmp_path):
    images = digits.sample(2, steps=10)
    run("export", "digits", "-o", tmp_path / "digits.safetensors")
    own = (tmp_path / "digits.safetensors").read_bytes()
    assert len(digits.compress(images, steps=3, embed_model=own)) > len(own)
    run("export", "fashion-mnist", "-o", tmp_path / "other.safetensors")
    for wrong in [b"", b"no model", (tmp_path / "other.safetensors").read_bytes()]:
        with pytest.raises(vdm.Error, match="embed_model"):
            digits.compress(images, steps=3, embed_model=wrong)


def test_schedules(digits):
    linear = vdm.Schedule.linear(-8, 5)
    assert np.allclose(linear.gamma([0, 0.5, 1]), [-8, -1.5, 5])
    t = np.linspace(0, 1, 11).reshape(1, 11)
    assert np.allclose(linear.alpha(t) ** 2 + linear.sigma(t) ** 2, 1)
    assert (np.diff(digits.schedule.gamma(t)) > 0).all() and (np.diff(digits.schedule.snr(t)) < 0).all()


def test_errors_are_exceptions(digits):
    images = np.zeros((2, 1, 8, 8), np.uint8)
    for call, words in [
        (lambda: vdm.load("nothing"), "shipped models: digits"),
        (lambda: digits.bits_per_dim(images + 17), "17"),
        (lambda: digits.bits_per_dim(images.astype(float)), "uint8"),
        (lambda: digits.bits_per_dim(images[:, :, :7]), "expected an array"),
        (lambda: digits.bits_per_dim(images, layout="CHW"), "NHWC"),
        (lambda: digits.bits_per_dim(images[:0]), ""),
        (lambda: digits.bits_per_dim(images, labels=[0, 1]), "no classes"),
        (lambda: digits.bits_per_dim(images, estimator="best"), "estimator"),
        (lambda: digits.bits_per_dim(images, estimator="importance"), "timesteps"),
        (lambda: digits.sample(1, steps=0), "steps"),
        (lambda: digits.sample(-1), "n: -1"),
        (lambda: digits.sample(1.5), "whole number"),
        (lambda: digits.sample(1, seed=2**64), "seed"),
        (lambda: digits.sample(1, batch_size=0), "batch_size"),
        (lambda: digits.bits_per_dim(images, batch_size=0), "batch_size"),
        (lambda: digits.bits_per_dim(images, labels=[-1, 0]), "labels"),
        (lambda: digits.eps_hat(np.zeros((1, 1, 8, 8)), float("nan")), "gamma"),
        (lambda: digits.eps_hat(np.zeros((1, 1, 8, 8)), 1e300), "gamma"),
        (lambda: digits.sample(1, steps=2**60), "steps"),
        (lambda: digits.compress(images, steps=2**60), "steps"),
        (lambda: digits.bits_per_dim(images, timesteps=2**60), "timesteps"),
        (lambda: digits.bits_per_dim(images, repeats=2**60), "repeats"),
        (lambda: digits.sample(10**12), "at most"),
        (lambda: digits.sample(1, sampler="fast"), "sampler"),
        (lambda: digits.sample(1, class_=1), "classes"),
        (lambda: digits.decompress(b"VDMZ"), "truncated"),
        (lambda: digits.decompress(vdm.load("fashion-mnist").compress(np.zeros((1, 1, 28, 28), np.uint8), steps=1)), ""),
        (lambda: vdm.Schedule.linear(1, 0), "below"),
        (lambda: digits.schedule.gamma([1.5]), "[0, 1]"),
    ]:
        with pytest.raises(vdm.Error) as error:
            call()
        assert words in str(error.value), str(error.value)
    assert issubclass(vdm.Error, ValueError)
    # `bytes(5)` are five bytes.
    with pytest.raises(TypeError, match="bytes-like"):
        digits.decompress(5)


def test_other_threads_run_meanwhile(digits):
    ticks, done = 0, threading.Event()
    worker = threading.Thread(target=lambda: (digits.sample(64, steps=100), done.set()))
    worker.start()
    while not done.wait(0.001):
        ticks += 1
    worker.join()
    assert ticks > 20


def test_eps_hat_is_the_noise_where_there_is_nothing_else(digits):
    z = np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)
    gamma = digits.schedule.gamma(1.0).item()
    eps_hat = digits.eps_hat(z, gamma)
    assert eps_hat.shape == z.shape and np.abs(eps_hat - z).mean() < 0.1
    each = digits.eps_hat(z, [gamma, -5, 0])
    assert (each[0] == eps_hat[0]).all() and not (each[1] == eps_hat[1]).all()
    with pytest.raises(vdm.Error, match="expected an array"):
        digits.eps_hat(z[0], gamma)
    with pytest.raises(vdm.Error, match="class"):
        digits.eps_hat(z, gamma, classes=[0, 1, 2])


def test_guidance_is_checked_as_by_the_program(digits):
    """A model without classes took any weight without a word."""
    for weight, words in [(3.0, "no classes"), (-1.0, "at least 0"), (float("nan"), "at least 0")]:
        with pytest.raises(vdm.Error, match=words):
            digits.sample(1, steps=2, guidance=weight)


def test_options_without_use_are_refused(digits):
    """`steps` was taken without a word by the sampler ode, and `timesteps` by the estimator ode."""
    images = np.zeros((1, 1, 8, 8), np.uint8)
    for call, option in [
        (lambda: digits.sample(1, sampler="ode", steps=5), "steps"),
        (lambda: digits.sample(1, sampler="ode", grid="gamma"), "grid"),
        (lambda: digits.sample(1, eta=0.5), "eta"),
        (lambda: digits.sample(1, sampler="heun", tolerance=0.1), "tolerance"),
        (lambda: digits.bits_per_dim(images, estimator="ode", timesteps=5), "timesteps"),
        (lambda: digits.bits_per_dim(images, draws=2), "draws"),
        (lambda: digits.bits_per_dim(images, tolerance=0.1), "tolerance"),
    ]:
        with pytest.raises(vdm.Error, match=f"{option}: .* has no use for it"):
            call()
    with pytest.raises(vdm.Error, match="eta"):
        digits.sample(1, sampler="ddim", eta=2.0, steps=2)
    with pytest.raises(vdm.Error, match="positive"):
        digits.sample(1, sampler="ode", tolerance=0.0)
    with pytest.raises(vdm.Error, match="positive"):
        digits.bits_per_dim(images, estimator="ode", tolerance=-1.0)


def test_flows_are_those_of_the_program(digits, tmp_path):
    """The sampler ode had another tolerance than the program's."""
    images = digits.sample(3, seed=4, sampler="ode")
    run("sample", "digits", "--count", 3, "--seed", 4, "--sampler", "ode", "--separate", "-o", tmp_path / "images")
    data = run("compress", "digits", tmp_path / "images", "--no-fallback", "--timesteps", 3, "-o", "-")
    assert (digits.decompress(data) == images).all()
    run("sample", "digits", "--count", 3, "--sampler", "ddim", "--eta", 0.5, "--steps", 9, "--separate", "-o", tmp_path / "b")
    data = run("compress", "digits", tmp_path / "b", "--no-fallback", "--timesteps", 3, "-o", "-")
    assert (digits.decompress(data) == digits.sample(3, sampler="ddim", eta=0.5, steps=9)).all()


def test_samples_follow_the_configuration_of_the_run(tmp_path):
    """The sampler was always ancestral, whatever the run's configuration said."""
    sets = ["model.n_embd=32", "model.n_layer=1", "train.eval_every=0", "train.sample_every=0", "eval.repeats=1"]
    sets += ["sample.sampler=ddim", "sample.steps=4", "sample.count=1"]
    run("train", "--steps", 2, "--out", tmp_path / "run", "--plain", *[word for key in sets for word in ("--set", key)])
    run("sample", tmp_path / "run", "--count", 2, "--seed", 3, "--separate", "-o", tmp_path / "images")
    data = run("compress", "digits", tmp_path / "images", "--no-fallback", "--timesteps", 3, "-o", "-")
    model = vdm.load(tmp_path / "run")
    images = vdm.load("digits").decompress(data)
    assert (images == model.sample(2, seed=3)).all()
    assert (images != model.sample(2, seed=3, sampler="ancestral")).any()


def test_a_folder_of_the_name_does_not_hide_a_shipped_model(tmp_path, monkeypatch):
    """It said that `digits` is none of the shipped models: digits, ..."""
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert vdm.load("digits").levels == 17
