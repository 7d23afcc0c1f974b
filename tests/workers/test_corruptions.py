"""Each corruption does what it states, checked against slow computations and against what its constants promise."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats
from sklearn.datasets import load_sample_image

from qsweep.sweeps.corruptions import CORRUPTIONS, SEVERITIES
from qsweep.sweeps.errors import InputError
from qsweep.workers.corruptions import corrupt, libraries
from qsweep.workers.corruptions.blur import disk_kernel, line_kernel
from qsweep.workers.corruptions.constants import CIFAR, IMAGENET, Constants
from qsweep.workers.corruptions.corrupt import APPLIED
from qsweep.workers.corruptions.digital import jpeg
from qsweep.workers.corruptions.draws import generator
from qsweep.workers.corruptions.textures import synthetic_textures
from qsweep.workers.corruptions.weather import plasma

BOTH = pytest.mark.parametrize("constants", [CIFAR, IMAGENET], ids=lambda one: one.name)


@cache
def photograph() -> np.ndarray:
    whole: np.ndarray = load_sample_image("china.jpg")
    whole.setflags(write=False)
    return whole


def photographs(side: int, count: int) -> np.ndarray:
    """Pieces of a real photograph."""
    whole = photograph()
    places = np.random.default_rng(0).integers(0, np.array(whole.shape[:2]) - side, size=(count, 2))
    return np.stack([whole[top : top + side, left : left + side] for top, left in places])


def grey(level: int, count: int, side: int = 32) -> np.ndarray:
    return np.full((count, side, side, 3), level, dtype=np.uint8)


def corrupted(images: np.ndarray, name: str, severity: int, constants: Constants = CIFAR) -> np.ndarray:
    return corrupt(images, name, severity, places=range(len(images)), seed=1, constants=constants)


def draw_of(name: str, severity: int, image: int = 0) -> np.random.Generator:
    """The generator that `corrupted` draws an image's numbers from."""
    return generator(1, name, severity, image)


def test_every_corruption_of_sweeps_has_its_implementation_and_both_sets_of_constants() -> None:
    assert list(APPLIED) == list(CORRUPTIONS) == list(CIFAR.severities) == list(IMAGENET.severities)
    assert {len(one) for set_ in (CIFAR, IMAGENET) for one in set_.severities.values()} == {len(SEVERITIES)}


@BOTH
@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_noise_has_its_deviation(severity: int, constants: Constants) -> None:
    sigma = constants.at("gaussian_noise", severity)
    residual = corrupted(grey(128, 20), "gaussian_noise", severity, constants) / 255 - 128 / 255
    line = np.linspace(-8 * sigma, 8 * sigma, 100_001)
    weights = stats.norm.pdf(line, scale=sigma)
    clipped = np.clip(128 / 255 + line, 0, 1)
    mean = np.average(clipped, weights=weights)
    expected = np.average((clipped - mean) ** 2, weights=weights) ** 0.5
    assert residual.std() == pytest.approx(expected, rel=0.01)
    assert residual.mean() == pytest.approx(mean - 128 / 255 - 0.5 / 255, abs=4 * sigma / residual.size**0.5)


@BOTH
@pytest.mark.parametrize("severity", SEVERITIES)
def test_shot_noise_has_the_rate_of_its_photons(severity: int, constants: Constants) -> None:
    photons = constants.at("shot_noise", severity)
    level = 51
    found = corrupted(grey(level, 20), "shot_noise", severity, constants) / 255
    counts = np.arange(20 * photons)
    weights = stats.poisson.pmf(counts, photons * level / 255)
    values = np.floor(np.clip(counts / photons, 0, 1) * 255 + 1e-9) / 255
    mean = np.average(values, weights=weights)
    deviation = np.average((values - mean) ** 2, weights=weights) ** 0.5
    assert found.mean() == pytest.approx(mean, abs=4 * deviation / found.size**0.5)
    assert found.std() == pytest.approx(deviation, rel=0.02)


@BOTH
@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise_hits_its_share_with_salt_and_pepper_alike(severity: int, constants: Constants) -> None:
    amount = constants.at("impulse_noise", severity)
    found = corrupted(grey(128, 40), "impulse_noise", severity, constants)
    salt, pepper = (found == 255).mean(), (found == 0).mean()
    error = 4 * (amount / found.size) ** 0.5
    assert salt == pytest.approx(amount / 2, abs=error)
    assert pepper == pytest.approx(amount / 2, abs=error)
    assert set(np.unique(found)) == {0, 128, 255}


@BOTH
@pytest.mark.parametrize("severity", SEVERITIES)
def test_defocus_blur_is_the_direct_convolution_with_a_disk(severity: int, constants: Constants) -> None:
    radius, alias = constants.at("defocus_blur", severity)
    kernel = disk_kernel(radius, alias)
    # The published disk of radius 8 or more touches its frame, where the smoothing doubles what it mirrors.
    assert kernel.sum() == pytest.approx(1, abs=1e-5 if radius < 8 else 0.02)
    reach = len(kernel) // 2
    line = np.arange(-reach, reach + 1)
    assert not kernel[np.hypot(*np.meshgrid(line, line)) > radius + 3].any()
    image = photographs(32, 1)
    padded = np.pad(image[0] / 255, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    expected = sum(
        kernel[row, column] * padded[row : row + 32, column : column + 32] for row, column in np.ndindex(*kernel.shape)
    )
    close(corrupted(image, "defocus_blur", severity, constants)[0], expected)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal, but for values so near to a whole number that arithmetic decides to which side they are cut."""
    exact = np.clip(expected, 0, 1) * 255
    whole = np.floor(exact + 1e-4)
    near = np.abs(exact - np.rint(exact)) < 1e-3
    assert (np.abs(found - whole) <= near).all()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_glass_blur_copies_pixel_by_pixel_what_a_plain_loop_copies(severity: int) -> None:
    sigma, reach, iterations = CIFAR.at("glass_blur", severity)
    image = photographs(32, 2)
    draw = draw_of("glass_blur", severity, 1)
    moves = iter(draw.integers(-reach, reach, size=(iterations * (32 - 2 * reach) ** 2, 2)))
    pixels = np.uint8(ndimage.gaussian_filter(image[1] / 255, (sigma, sigma, 0), mode="nearest") * 255)
    for _ in range(iterations):
        for row in range(32 - reach, reach, -1):
            for column in range(32 - reach, reach, -1):
                across, down = next(moves)
                pixels[row, column] = pixels[row + down, column + across]
    expected = ndimage.gaussian_filter(pixels / 255, (sigma, sigma, 0), mode="nearest")
    close(corrupted(image, "glass_blur", severity)[1], expected)


@BOTH
@pytest.mark.parametrize("severity", SEVERITIES)
def test_motion_blur_sums_the_image_along_its_line(severity: int, constants: Constants) -> None:
    radius, sigma = constants.at("motion_blur", severity)
    angle = np.radians(draw_of("motion_blur", severity).uniform(-45, 45))
    image = photographs(48, 1)
    weights = [np.exp(-(place**2) / (2 * sigma**2)) for place in range(2 * radius + 1)]
    rows, columns = np.mgrid[:48, :48]
    expected = np.zeros((48, 48, 3))
    for place, weight in enumerate(weights):
        down, across = round(place * np.sin(angle)), round(place * np.cos(angle))
        read = image[0][np.clip(rows + down, 0, 47), np.clip(columns + across, 0, 47)]
        expected += weight / sum(weights) * read
    found = corrupted(image, "motion_blur", severity, constants)[0]
    assert np.abs(found - expected).max() <= 0.5 + 1e-6


def test_a_motion_kernel_is_half_a_gaussian_on_a_line() -> None:
    level = line_kernel(6, 2.0, 0.0)
    assert level.sum() == pytest.approx(1)
    assert (level[12, 13:] < level[12, 12:-1]).all()
    assert level[12, :12].sum() == 0
    assert np.delete(level, 12, axis=0).sum() == 0
    assert np.allclose(line_kernel(6, 2.0, -90.0)[:, 12], level[12, ::-1])


ZOOMS = {"CIFAR-C": (7, 12, 16, 21, 26), "ImageNet-C": (12, 16, 11, 13, 11)}


@BOTH
@pytest.mark.parametrize("severity", SEVERITIES)
def test_zoom_blur_is_the_mean_of_the_zoomed_centres(severity: int, constants: Constants) -> None:
    factors = np.arange(1, *constants.at("zoom_blur", severity))
    assert len(factors) == ZOOMS[constants.name][severity - 1]
    image = photographs(32, 1)
    total = image[0] / 255
    for factor in factors:
        width = int(np.ceil(32 / factor))
        first = (32 - width) // 2
        centre = image[0, first : first + width, first : first + width] / 255
        enlarged = ndimage.zoom(centre, (factor, factor, 1), order=1)
        trimmed = (len(enlarged) - 32) // 2
        total = total + enlarged[trimmed : trimmed + 32, trimmed : trimmed + 32]
    close(corrupted(image, "zoom_blur", severity, constants)[0], total / (len(factors) + 1))


@BOTH
@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_raises_the_value_and_keeps_hue_and_saturation(severity: int, constants: Constants) -> None:
    more = constants.at("brightness", severity)
    image = photographs(8, 1)
    found = corrupted(image, "brightness", severity, constants)[0]
    for before, after in zip(image[0].reshape(-1, 3), found.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(before / 255))
        expected = np.array(colorsys.hsv_to_rgb(hue, saturation, min(value + more, 1))) * 255
        assert np.abs(after - np.floor(expected + 1e-6)).max() <= 1
        assert after.max() == np.floor(min(value + more, 1) * 255 + 1e-6)


@BOTH
@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_keeps_the_mean_and_scales_the_deviation(severity: int, constants: Constants) -> None:
    kept = constants.at("contrast", severity)
    images = photographs(32, 2)
    found = corrupted(images, "contrast", severity, constants).astype(float) + 0.5  # cut down, half a level on average
    assert np.abs(found.mean((1, 2)) - images.mean((1, 2))).max() < 0.5
    rounding = 1 / 12  # variance of what is cut off, in levels
    assert found.var((1, 2)) == pytest.approx(kept**2 * images.var((1, 2)) + rounding, rel=0.05)


@pytest.mark.parametrize(("severity", "block"), [(2, 2), (5, 4)])
def test_pixelate_makes_blocks_of_their_mean(severity: int, block: int) -> None:
    image = photographs(224, 1)
    found = corrupted(image, "pixelate", severity, IMAGENET)[0]
    cells = found.reshape(224 // block, block, 224 // block, block, 3)
    assert (cells == cells[:, :1, :, :1]).all()
    means = image[0].reshape(224 // block, block, 224 // block, block, 3).mean((1, 3))
    assert np.abs(cells[:, 0, :, 0] - means).max() <= 1  # rounded along one side, and then along the other


@pytest.mark.parametrize("severity", SEVERITIES)
def test_pixelate_at_cifars_size_has_that_many_pixels(severity: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, size=(1, 32, 32, 3), dtype=np.uint8)
    found = corrupted(noise, "pixelate", severity)[0].astype(int)
    changes = 1 + (np.abs(np.diff(found, axis=0)).sum((1, 2)) > 0).sum()
    assert changes == int(32 * CIFAR.at("pixelate", severity))


LUMINANCE_TABLE = np.array([16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55])
"""The first two rows of the luminance table of the JPEG standard (Annex K)."""


@BOTH
@pytest.mark.parametrize("severity", SEVERITIES)
def test_jpeg_has_the_quantization_table_of_its_quality(severity: int, constants: Constants) -> None:
    quality = constants.at("jpeg_compression", severity)
    image = photographs(32, 1)
    file = jpeg(Image.fromarray(image[0]), quality)
    opened = Image.open(io.BytesIO(file))
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    expected = np.clip((LUMINANCE_TABLE * scale + 50) // 100, 1, 255)
    assert opened.quantization[0][:16] == expected.tolist()  # type: ignore[attr-defined]
    assert (corrupted(image, "jpeg_compression", severity, constants)[0] == np.asarray(opened)).all()


def test_elastic_transform_of_severity_1_is_affine_and_that_of_severity_5_is_not() -> None:
    ramp = np.broadcast_to(np.arange(64, 64 + 4 * 32, 4, dtype=np.uint8)[None, :, None], (32, 32, 3))[None]
    bent = {}
    for severity in (1, 5):
        inner = corrupted(ramp, "elastic_transform", severity)[0, 10:22, 10:22, 0].astype(float)
        bent[severity] = np.abs(np.diff(inner, 2, axis=1)).max()
    assert bent[1] <= 2  # levels: what rounding leaves of a plane
    assert bent[5] > 3


@BOTH
@pytest.mark.parametrize("severity", SEVERITIES)
def test_elastic_transform_displaces_each_pixel_as_a_plain_loop_does(severity: int, constants: Constants) -> None:
    side, scale = 32, constants.elastic_scale or 32
    size, smooth, reach = (scale * one for one in constants.at("elastic_transform", severity))
    image, draw = photographs(side, 1), draw_of("elastic_transform", severity)
    points = np.float32([[26, 26], [26, 6], [6, 6]])
    aims = points + draw.uniform(-reach, reach, size=(3, 2)).astype(np.float32)
    affine = cv2.getAffineTransform(points, aims)
    mapped = cv2.warpAffine(np.float32(image[0] / 255), affine, (side, side), borderMode=cv2.BORDER_REFLECT_101)
    moves = [
        ndimage.gaussian_filter(draw.uniform(-1, 1, (side, side)), smooth, mode="reflect", truncate=3) * size
        for _ in "xy"
    ]
    found = corrupted(image, "elastic_transform", severity, constants)[0]
    for row, column in [(0, 0), (3, 30), (16, 16), (20, 9), (31, 31)]:
        down, across = row + moves[1][row, column], column + moves[0][row, column]
        top, left = int(np.floor(down)), int(np.floor(across))
        expected = sum(
            (1 - abs(down - y)) * (1 - abs(across - x)) * mapped[_mirrored(y, side), _mirrored(x, side)]
            for y in (top, top + 1)
            for x in (left, left + 1)
        )
        close(found[row, column], expected)


def _mirrored(place: int, side: int) -> int:
    """The pixel that stands at a place outside, the image mirrored at its edge again and again."""
    place %= 2 * side
    return place if place < side else 2 * side - 1 - place


@BOTH
def test_snow_is_a_layer_and_the_same_turned_around(constants: Constants) -> None:
    for severity in SEVERITIES:
        found = corrupted(grey(0, 3), "snow", severity, constants).astype(int)
        assert (found == found[:, ::-1, ::-1]).all()
        kept = constants.at("snow", severity)[-1]
        assert found.min() == int((1 - kept) * 0.5 * 255 + 1e-6)  # black made paler, where no flake is
        assert found.max() > found.min() + 20
    assert (corrupted(photographs(32, 4), "snow", 5, constants).mean((1, 2)) > photographs(32, 4).mean((1, 2))).all()


@BOTH
def test_frost_blends_a_piece_of_a_texture_over_the_image(constants: Constants) -> None:
    rows, columns = np.mgrid[:60, :60].astype(np.uint8)
    textures = tuple(np.stack([rows * 4, columns * 4, np.full_like(rows, 50 * number)], -1) for number in range(6))
    images = photographs(32, 40)
    for severity in (1, 5):
        share, cover = constants.at("frost", severity)
        found = corrupt(images, "frost", severity, places=range(40), seed=1, constants=constants, textures=textures)
        drawn = set()
        for number in range(40):
            draw = draw_of("frost", severity, number)
            which, top, left = draw.integers(5), int(draw.integers(0, 28)), int(draw.integers(0, 28))
            drawn.add(int(which))
            piece = textures[which][top : top + 32, left : left + 32] / 255
            close(found[number], share * images[number] / 255 + cover * piece)
        assert drawn == {0, 1, 2, 3, 4}  # and never the sixth


def test_synthetic_frost_is_bright_varied_and_always_the_same() -> None:
    textures = synthetic_textures(0.2)
    assert len(textures) == 5
    assert len({one.tobytes() for one in textures}) == 5
    for texture in textures:
        assert (texture.shape, texture.dtype) == ((205, 205, 3), np.uint8)
        assert 80 < texture.mean() < 220
        assert texture.std() > 10


def test_plasma_is_the_diamond_square_algorithm() -> None:
    side, decay = 8, 2.0
    found = plasma(side, decay, [np.random.default_rng(5)])[0]
    noise = iter(np.random.default_rng(5).uniform(-1, 1, size=side**2 - 1))
    points = {(0, 0): 0.0}
    step, rough = side, 100.0

    def displaced(*around: tuple[int, int]) -> float:
        return sum(points[row % side, column % side] for row, column in around) / 4 + rough**2 * next(noise)

    while step >= 2:
        half = step // 2
        for row in range(half, side, step):
            for column in range(half, side, step):
                points[row, column] = displaced(
                    (row - half, column - half), (row - half, column + half),
                    (row + half, column - half), (row + half, column + half),
                )  # fmt: skip
        for first, second in ((0, half), (half, 0)):
            for row in range(first, side, step):
                for column in range(second, side, step):
                    points[row, column] = displaced(
                        (row - half, column), (row + half, column), (row, column - half), (row, column + half)
                    )
        step, rough = half, rough / decay
    values = np.array([[points[row, column] for column in range(side)] for row in range(side)])
    expected = (values - values.min()) / (values.max() - values.min())
    assert found == pytest.approx(expected, abs=1e-12)


@BOTH
def test_fog_veils_the_image_and_keeps_its_largest_value(constants: Constants) -> None:
    for severity in SEVERITIES:
        cover, decay = constants.at("fog", severity)
        images = photographs(32, 2)
        found = corrupted(images, "fog", severity, constants)
        for number, image in enumerate(images / 255):
            clouds = plasma(constants.fog_side, decay, [draw_of("fog", severity, number)])[0, :32, :32, None]
            close(found[number], (image + cover * clouds) * image.max() / (image.max() + cover))
    smooth, rough = (
        np.abs(np.diff(plasma(32, decay, [np.random.default_rng(one) for one in range(20)]))).mean()
        for decay in (3.0, 1.4)
    )
    assert smooth < rough


UNEVEN = {
    "CIFAR-C": {"glass_blur", "elastic_transform", "frost", "motion_blur"},
    "ImageNet-C": {"glass_blur", "elastic_transform", "snow", "frost", "fog"},
}
"""Corruptions whose constants themselves do not take each severity further from the clean image."""


@pytest.mark.slow
@pytest.mark.parametrize(("constants", "side"), [(CIFAR, 32), (IMAGENET, 96)], ids=["CIFAR-C", "ImageNet-C"])
def test_each_severity_is_further_from_the_clean_image(constants: Constants, side: int) -> None:
    images = photographs(side, 20 if side == 32 else 4)
    for name in CORRUPTIONS:
        distances = [
            float(np.square(corrupted(images, name, severity, constants) / 255 - images / 255).mean())
            for severity in SEVERITIES
        ]
        assert min(distances) > 0
        if name not in UNEVEN[constants.name]:
            assert distances == sorted(set(distances)), name


@BOTH
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_is_corrupted_alike_in_whatever_batch_it_comes(name: str, constants: Constants) -> None:
    images = photographs(32, 6)
    whole = corrupt(images, name, 3, places=[10, 11, 12, 13, 14, 15], constants=constants)
    part = corrupt(images[[4, 1]], name, 3, places=[14, 11], constants=constants)
    assert (part == whole[[4, 1]]).all()
    assert whole.dtype == np.uint8
    assert whole.shape == images.shape


RANDOM = [
    name
    for name in CORRUPTIONS
    if name not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
]


@pytest.mark.parametrize("name", RANDOM)
def test_another_seed_and_another_place_draw_other_numbers(name: str) -> None:
    images = np.repeat(photographs(32, 1), 2, axis=0)
    first, second = corrupt(images, name, 2, places=[0, 1])
    (other,) = corrupt(images[:1], name, 2, places=[0], seed=1)
    assert (first != second).any()
    assert (first != other).any()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_digits_of_one_channel_are_corrupted_too(name: str) -> None:
    images = photographs(8, 5)[..., :1]
    found = corrupt(images, name, 5, places=range(5))
    assert (found.shape, found.dtype) == ((5, 8, 8, 1), np.uint8)
    assert (found != images).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images: corrupt(images, "gausian_noise", 1, places=range(2)), "did you mean 'gaussian_noise'"),
        (lambda images: corrupt(images, "fog", 6, places=range(2)), "allowed: 1, 2, 3, 4, 5"),
        (lambda images: corrupt(images / 255, "fog", 1, places=range(2)), "uint8 (N, side, side, 1 or 3)"),
        (lambda images: corrupt(images[:, :16], "fog", 1, places=range(2)), "uint8 (N, side, side, 1 or 3)"),
    ],
)
def test_what_can_not_be_corrupted_is_refused(change: Callable[[np.ndarray], np.ndarray], message: str) -> None:
    with pytest.raises(InputError) as caught:
        change(photographs(32, 2))
    assert message in str(caught.value)


def test_a_missing_library_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(libraries.PACKAGES, "no_such_module", "no-such-package")
    for ask in (libraries.check_libraries, lambda: libraries.library("no_such_module")):
        with pytest.raises(InputError, match=r"no-such-package.*pip install 'qsweep\[distortion\]'"):
            ask()


def published_zoom_blur(image: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """`make_cifar_c.py`, word for word but for its names."""
    x = (image / 255.0).astype(np.float32)
    out = np.zeros_like(x)
    for factor in factors:
        side = x.shape[0]
        width = int(np.ceil(side / factor))
        top = (side - width) // 2
        zoomed = ndimage.zoom(x[top : top + width, top : top + width], (factor, factor, 1), order=1)
        trim = (zoomed.shape[0] - side) // 2
        out += zoomed[trim : trim + side, trim : trim + side]
    return np.uint8(np.clip((x + out) / (len(factors) + 1), 0, 1) * 255)


def published_contrast(image: np.ndarray, kept: float) -> np.ndarray:
    x = image / 255.0
    means = np.mean(x, axis=(0, 1), keepdims=True)
    return np.uint8(np.clip((x - means) * kept + means, 0, 1) * 255)


@pytest.mark.slow
@pytest.mark.parametrize("severity", SEVERITIES)
def test_pixels_that_draw_nothing_are_those_of_the_published_code(severity: int) -> None:
    images = np.random.default_rng(8).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    factors = np.arange(1, *CIFAR.at("zoom_blur", severity))
    zoom = np.stack([published_zoom_blur(one, factors) for one in images])
    assert (corrupted(images, "zoom_blur", severity) == zoom).all()
    drawn = np.stack([published_contrast(one, CIFAR.at("contrast", severity)) for one in images])
    assert (corrupted(images, "contrast", severity) == drawn).all()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_frost_cuts_the_values_that_the_published_code_cuts(severity: int) -> None:
    images = np.random.default_rng(9).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    textures = (np.full((40, 40, 3), 50, dtype=np.uint8),) * 5
    share, cover = CIFAR.at("frost", severity)
    found = corrupt(images, "frost", severity, places=range(40), textures=textures)
    assert (found == np.uint8(np.clip(share * images + cover * np.full(3, 50), 0, 255))).all()
