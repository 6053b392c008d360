"""Variational diffusion models: a density model of images with a bound on their bits, a sampler and a lossless codec.

    >>> import vdm
    >>> m = vdm.load("digits")
    >>> images = m.sample(4, seed=1)
    >>> m.bits_per_dim(images).shape
    (4,)

Images are NumPy arrays of uint8 with values below the model's `levels`: ``[n, channels, height, width]``, or
``[n, height, width, channels]`` where ``layout="NHWC"`` says so.
"""

from __future__ import annotations

import operator
import os
from typing import Optional, Sequence

import numpy as np

from . import _vdm
from ._vdm import Error, __version__, models

__all__ = ["Error", "Model", "Schedule", "__version__", "load", "models"]

LAYOUTS = ("NCHW", "NHWC")


def _whole(what: str, number, least: int = 0, below: int = 2**64) -> int:
    """The number, if it is a whole one of at least `least` that the library can take; the library may have narrower limits."""
    try:
        number = operator.index(number)
    except TypeError:
        raise Error(f"{what}: expected a whole number, found {number!r}") from None
    if number < least:
        raise Error(f"{what}: {number}, expected at least {least}")
    if number >= below:
        raise Error(f"{what}: {number} is too large")
    return number


def load(path: str | os.PathLike) -> Model:
    """Opens a model: the name of a shipped one (see `models()`), a file that `vdm export` wrote, or a run's folder.

    Raises `vdm.Error`, a `ValueError`, if it is none of these or damaged.
    """
    return Model(_vdm.load(os.fspath(path)))


class Schedule:
    """A noise schedule, of time t in [0, 1]."""

    def __init__(self, schedule: _vdm.Schedule) -> None:
        self._schedule = schedule

    @classmethod
    def linear(cls, gamma_0: float, gamma_1: float) -> Schedule:
        """A straight line from gamma_0 to gamma_1."""
        return cls(_vdm.Schedule.linear(gamma_0, gamma_1))

    def gamma(self, t) -> np.ndarray:
        """gamma(t), minus the logarithm of the signal-to-noise ratio; in the shape of `t`."""
        t = np.asarray(t, dtype=np.float64)
        return np.array(self._schedule.gamma(t.ravel().tolist())).reshape(t.shape)

    def alpha(self, t) -> np.ndarray:
        """The factor of the image in z_t."""
        return np.sqrt(1.0 / (1.0 + np.exp(self.gamma(t))))

    def sigma(self, t) -> np.ndarray:
        """The factor of the noise in z_t."""
        return np.sqrt(1.0 / (1.0 + np.exp(-self.gamma(t))))

    def snr(self, t) -> np.ndarray:
        """The signal-to-noise ratio alpha² / sigma²."""
        return np.exp(-self.gamma(t))


class Model:
    """A trained model; make one with `load`."""

    def __init__(self, model: _vdm.Model) -> None:
        self._model = model

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self._model.shape

    @property
    def levels(self) -> int:
        """Levels of a pixel: values are below this."""
        return self._model.levels

    @property
    def classes(self) -> int:
        """Classes that the model knows, 0 for none."""
        return self._model.classes

    @property
    def step(self) -> int:
        """Training steps."""
        return self._model.step

    @property
    def about(self) -> dict[str, str]:
        """What is said about the model: its licence, recipe and bound."""
        return dict(self._model.about)

    @property
    def schedule(self) -> Schedule:
        """The noise schedule that it learned."""
        return Schedule(self._model.schedule)

    @property
    def fingerprint(self) -> str:
        """The fingerprint by which compressed files name their model."""
        return self._model.fingerprint()

    def bits_per_dim(
        self,
        images: np.ndarray,
        *,
        layout: str = "NCHW",
        labels: Optional[Sequence[int]] = None,
        estimator: str = "bound",
        repeats: int = 1,
        draws: Optional[int] = None,
        timesteps: Optional[int] = None,
        tolerance: Optional[float] = None,
        seed: int = 0,
        batch_size: int = 64,
        return_stderr: bool = False,
    ):
        """An upper bound on -log2 p(x) of each image, divided by its numbers: a float64 array, one per image.

        With `labels` it bounds -log2 p(x | class). `estimator` is ``bound``, ``importance`` (wants `timesteps`) or ``ode``.
        `timesteps`, the number of steps of the chain, is for the first two (``bound`` is in continuous time without it);
        `draws` of the latents, 1 if not given, for the last two; `tolerance`, the error of a step, 1e-4 if not given, for ``ode``.
        The estimate of one pass is noisy, so average over `repeats`; `return_stderr=True` gives its standard error over them,
        too (NaN for one pass). The times of an image depend on how many images there are, and nothing depends on
        `batch_size`.
        """
        pixels = self._pixels(images, layout)
        labels = None if labels is None else [_whole("labels", label, below=2**32) for label in labels]
        bits, errors = self._model.bits_per_dim(
            pixels,
            labels,
            estimator,
            _whole("repeats", repeats),
            None if draws is None else _whole("draws", draws),
            None if timesteps is None else _whole("timesteps", timesteps),
            tolerance,
            _whole("seed", seed),
            _whole("batch_size", batch_size, 1),
        )
        bits = np.array(bits)
        if not return_stderr:
            return bits
        return bits, np.array([np.nan if error is None else error for error in errors])

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        first: int = 0,
        class_: Optional[int] = None,
        steps: Optional[int] = None,
        sampler: Optional[str] = None,
        grid: Optional[str] = None,
        eta: Optional[float] = None,
        tolerance: Optional[float] = None,
        guidance: Optional[float] = None,
        layout: str = "NCHW",
        batch_size: int = 64,
    ) -> np.ndarray:
        """Draws images number `first` to `first + n`: a uint8 array.

        Each is a function of `seed` and its number alone. `sampler` is ``ancestral``, ``ddim``, ``heun``, ``dpm++-2m`` or
        ``ode``. Without `class_`, a model with classes draws them in turn.

        Without `sampler`, `steps` or `guidance`, they are those of the model's configuration, as in ``vdm sample``.
        `guidance` is the weight of classifier-free guidance: above 1, images are more typical of their class.

        `steps` and `grid` are for all samplers but ``ode``. The steps are even in ``time`` (the default) or ``gamma``, or
        where the ``loss`` says. ``ode`` takes steps of its own; `tolerance` is the error of one of them, 1e-3 by default.
        `eta` is the new noise of ``ddim``, from 0, the default, to 1.
        """
        self._check_layout(layout)
        pixels = self._model.sample(
            _whole("n", n),
            _whole("first", first),
            _whole("seed", seed),
            None if class_ is None else _whole("class_", class_, below=2**32),
            None if steps is None else _whole("steps", steps),
            sampler,
            grid,
            eta,
            tolerance,
            guidance,
            _whole("batch_size", batch_size, 1),
        )
        return self._array(pixels, layout)

    def compress(
        self, images: np.ndarray, *, layout: str = "NCHW", steps: int = 100, seed: int = 0, embed_model: Optional[bytes] = None
    ) -> bytes:
        """Codes images without loss, as a `.vdmz` file that `vdm decompress` and `decompress` read.

        More `steps` code better and take longer in proportion. `embed_model` is the content of a model file to put into it.
        """
        return self._model.compress(self._pixels(images, layout), _whole("steps", steps), _whole("seed", seed), embed_model)

    def decompress(self, data: bytes, *, layout: str = "NCHW") -> np.ndarray:
        """The images of a file that this model coded: a uint8 array. Raises `vdm.Error` if it is damaged or of another model."""
        self._check_layout(layout)
        return self._array(self._model.decompress(bytes(memoryview(data))), layout)

    def eps_hat(self, z: np.ndarray, gamma, *, classes: Optional[Sequence[int]] = None) -> np.ndarray:
        """The predicted noise of latents z_t = alpha x + sigma eps, ``[n, channels, height, width]``, in float32.

        `gamma` is minus the logarithm of their signal-to-noise ratio: one number, or one for each. x is in [-1, 1]: level k
        of V is (2 k + 1)/V - 1.
        """
        z = np.ascontiguousarray(z, dtype=np.float32)
        if z.ndim != 4 or z.shape[1:] != self.shape:
            raise Error(f"z: expected an array [n, {', '.join(map(str, self.shape))}], found {list(z.shape)}")
        gammas = np.broadcast_to(np.asarray(gamma, dtype=np.float64), (len(z),)).tolist()
        with np.errstate(over="ignore"):
            finite = np.isfinite(np.asarray(gammas, dtype=np.float32)).all()
        if not finite:
            raise Error(f"gamma: expected finite numbers in float32, found {gamma}")
        classes = None if classes is None else [_whole("classes", c, below=2**32) for c in classes]
        return np.frombuffer(self._model.eps_hat(z.tobytes(), gammas, classes), np.float32).reshape(z.shape).copy()

    def with_reverse_variance(self, which: str) -> Model:
        """The same model with the variance ``posterior``, ``step`` or ``pixel`` of its reverse steps."""
        return Model(self._model.with_reverse_variance(which))

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.shape))
        return f"<vdm.Model of {shape} images with {self.levels} levels, {self.classes} classes, step {self.step}>"

    @staticmethod
    def _check_layout(layout: str) -> None:
        if layout not in LAYOUTS:
            raise Error(f"layout: expected NCHW or NHWC, found {layout!r}")

    def _pixels(self, images: np.ndarray, layout: str) -> bytes:
        self._check_layout(layout)
        images = np.asarray(images)
        if images.dtype != np.uint8:
            raise Error(f"images: expected uint8, found {images.dtype}; values are 0 to {self.levels - 1}")
        channels, height, width = self.shape
        expected = (channels, height, width) if layout == "NCHW" else (height, width, channels)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise Error(f"images: expected an array [n, {', '.join(map(str, expected))}], found {list(images.shape)}")
        if layout == "NHWC":
            images = images.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(images).tobytes()

    def _array(self, pixels: bytes, layout: str) -> np.ndarray:
        images = np.frombuffer(pixels, dtype=np.uint8).reshape(-1, *self.shape).copy()
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if layout == "NHWC" else images
