"""What happens to pictures on their way: less contrast, distortion, fewer pixels, JPEG."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from qsweep.workers.corruptions.libraries import library
from qsweep.workers.corruptions.noise import Draws


def contrast(images: np.ndarray, kept: float, draws: Draws) -> np.ndarray:
    """Each channel drawn towards its mean over the image."""
    means = np.stack([image.mean(axis=(0, 1), keepdims=True) for image in images])  # bits of one image by itself
    return np.asarray((images - means) * kept + means)


def elastic_transform(
    images: np.ndarray, settings: tuple[float, float, float], draws: Draws, scale: float
) -> np.ndarray:
    """A random affine map, then a random smooth displacement of every pixel.

    `settings`, in units of `scale` pixels: the size of the displacements, the deviation of the Gaussian that smooths
    them, and how far three points of the affine map may move.
    """
    lengths = [scale * one for one in settings]
    return np.stack([_warped(image, *lengths, draw=draw) for image, draw in zip(images, draws, strict=True)])


def _warped(
    image: np.ndarray, size: float, smoothness: float, reach: float, *, draw: np.random.Generator
) -> np.ndarray:
    cv2, ndimage = library("cv2"), library("scipy.ndimage")
    side = image.shape[0]
    middle, arm = side // 2, side // 3
    points = np.array([[arm, arm], [arm, -arm], [-arm, -arm]], dtype=np.float32) + middle
    aims = points + draw.uniform(-reach, reach, size=points.shape).astype(np.float32)
    affine = cv2.getAffineTransform(points, aims)
    mapped = cv2.warpAffine(image.astype(np.float32), affine, (side, side), borderMode=cv2.BORDER_REFLECT_101)
    mapped = mapped.reshape(image.shape)
    across, down = (
        ndimage.gaussian_filter(draw.uniform(-1, 1, size=(side, side)), smoothness, mode="reflect", truncate=3) * size
        for _ in range(2)
    )
    rows, columns = np.mgrid[:side, :side]
    channels = [
        ndimage.map_coordinates(channel, [rows + down, columns + across], order=1, mode="reflect")
        for channel in np.moveaxis(mapped, -1, 0)
    ]
    return np.stack(channels, axis=-1)  # float32 to the end, as in the published code


def pixelate(images: np.ndarray, share: float, draws: Draws) -> np.ndarray:
    """Reduced to ⌊share·side⌋ pixels a side and enlarged again, both by boxes."""
    box = library("PIL.Image").Resampling.BOX
    side = images.shape[1]
    fewer = int(side * share)
    small = [one.resize((fewer, fewer), box).resize((side, side), box) for one in _pictures(images)]
    return _values(small, images)


def jpeg_compression(images: np.ndarray, quality: int, draws: Draws) -> np.ndarray:
    """Saved as JPEG of this quality by Pillow, and read again."""
    opened = library("PIL.Image").open
    return _values([opened(io.BytesIO(jpeg(one, quality))) for one in _pictures(images)], images)


def jpeg(picture: Any, quality: int) -> bytes:
    """A Pillow image as a JPEG file."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _pictures(images: np.ndarray) -> list[Any]:
    """Pillow's images of what was uint8 before."""
    Image = library("PIL.Image")  # noqa: N806
    pixels = np.rint(images * 255).astype(np.uint8)
    return [Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one) for one in pixels]


def _values(pictures: list[Any], like: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(one) for one in pictures]).reshape(like.shape) / 255.0
