"""Draws images, attacks, gradient maps and restorations."""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from keras_trn.attacks import Attack
from keras_trn.logits import predicted_labels
from keras_trn.protected_classifier import ProtectedClassifier
from keras_trn.types import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_restorations(
    protected: ProtectedClassifier,
    images: np.ndarray,
    labels: ArrayLike,
    attack: Attack,
    class_names: Sequence[str] | None = None,
) -> "Figure":
    """Shows the image, adversarial image, gradient map (if any) and restored image in a row.

    The title of each image is the class that the bare classifier predicts, in red if wrong. The
    gradient map is the input of the restorer: red where more brightness raises the loss,
    blue where less does.

    Args:
        protected: A protected classifier.
        images: Clean images of shape `(number, height, width, channels)` in [0, 1]; each
            becomes a row.
        labels: Class indices of shape `(number,)`.
        attack: An attack to run on the bare classifier.
        class_names: Names of the classes; by default the `class_names` of `protected`, or else
            their numbers.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: If matplotlib is not installed.

    Example:
        ```python
        protected = keras_trn.ProtectedClassifier(classifier)
        attack = keras_trn.attacks.FastGradientMethod(epsilon=0.2)
        figure = keras_trn.visualization.plot_restorations(protected, images, labels, attack)
        ```
    """
    class_names = protected.class_names if class_names is None else class_names
    adversarial = attack(protected.classifier, images, labels).numpy()
    restored = protected.restore(adversarial, labels)
    has_maps = protected.gradient_map is not None
    titles = ["image", attack.name, *(["gradient map"] if has_maps else []), "restored"]
    figure, axes = make_image_grid(len(images), titles, width=1.7, height=1.9)
    for column, shown in zip((0, 1, -1), (images, adversarial, restored), strict=True):
        predicted = predicted_labels(protected.classifier, shown).numpy()
        for row, image in enumerate(shown):
            name = None if class_names is None else class_names[predicted[row]]
            show_image(axes[row, column], image, predicted[row], np.ravel(labels)[row], name)
    if has_maps:
        maps = protected.estimate_gradient_maps(adversarial, labels)[..., : images.shape[-1]]
        for axis, gradient_map in zip(axes[:, 2], maps, strict=True):
            show_map(axis, gradient_map)
    return figure


def show_image(
    axis: "Axes", image: ArrayLike, predicted: int, label: int, name: str | None = None
) -> None:
    """Shows an image with the predicted class as its title, in red if wrong.

    It shows an image of 3 channels in colour, and otherwise the mean of the channels in grey.

    Args:
        axis: The matplotlib axis to show it in.
        image: Array of shape `(height, width, channels)` in [0, 1].
        predicted: Index of the predicted class.
        label: Index of the true class.
        name: Name of the predicted class; by default its index.

    Example:
        ```python
        axis = keras_trn.visualization.new_figure().subplots()
        keras_trn.visualization.show_image(axis, images[0], predicted=3, label=5)
        ```
    """
    image = np.asarray(image)
    # Matplotlib would show a fourth channel as transparency.
    shown = image if image.shape[-1] == 3 else image.mean(axis=-1)
    axis.set_axis_off()
    axis.imshow(shown, cmap="gray", vmin=0, vmax=1)
    color, weight = ("black", "normal") if predicted == label else ("crimson", "bold")
    text = f"“{predicted if name is None else name}”"
    position: dict[str, Any] = {"transform": axis.transAxes, "ha": "center", "va": "bottom"}
    axis.text(0.5, 1.03, text, color=color, weight=weight, **position)


def show_map(axis: "Axes", gradient_map: ArrayLike) -> None:
    """Shows a gradient map or a perturbation: red above zero, blue below.

    Args:
        axis: The matplotlib axis to show it in.
        gradient_map: Array of shape `(height, width, channels)`; the plot shows the mean of the
            channels.

    Example:
        ```python
        axis = keras_trn.visualization.new_figure().subplots()
        keras_trn.visualization.show_map(axis, np.eye(8)[..., None])
        ```
    """
    shown = np.asarray(gradient_map).mean(axis=-1)
    largest = np.abs(shown).max() or 1.0
    axis.set_axis_off()
    axis.imshow(shown, cmap="RdBu_r", vmin=-largest, vmax=largest)


def make_image_grid(
    rows: int, titles: Sequence[str], width: float, height: float, margin: float = 0.0
) -> tuple["Figure", np.ndarray]:
    """Makes a figure with a grid of axes for images.

    Args:
        rows: Number of rows.
        titles: Titles of the columns.
        width: Width of an image in inches.
        height: Height of an image in inches.
        margin: Extra width of the figure, for text on its left.

    Returns:
        The matplotlib figure, and its axes as an array of shape `(rows, columns)`.

    Example:
        ```python
        _, axes = keras_trn.visualization.make_image_grid(2, ["clean", "restored"], 1.7, 1.9)
        assert axes.shape == (2, 2)
        ```
    """
    figure = new_figure(figsize=(width * len(titles) + margin, height * rows))
    axes = figure.subplots(rows, len(titles), squeeze=False)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=11, pad=20)
    return figure, axes


def new_figure(**options: Any) -> "Figure":
    """Makes a figure outside `pyplot`, which a notebook shows once and you need not close.

    Args:
        options: Arguments of `matplotlib.figure.Figure`, such as `figsize`.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: If matplotlib is not installed.

    Example:
        ```python
        figure = keras_trn.visualization.new_figure(figsize=(4, 3))
        assert not figure.axes
        ```
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Pictures need matplotlib: `pip install matplotlib`, or install the package with "
            "`pip install 'keras_trn[tutorials]'`."
        ) from error
    return Figure(layout="constrained", **options)
