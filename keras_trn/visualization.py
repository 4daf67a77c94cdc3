"""Pictures of what an attack does and what the restorer undoes."""

import numpy as np

from keras_trn.logits import predicted_labels


def plot_restorations(protected, images, labels, attack, class_names=None):
    """Shows image, adversarial image, gradient map and restored image side by side.

    Above each image stands what the bare classifier takes it for, in red where
    that is wrong. The gradient map is the one that the restorer is given: red
    where more brightness raises the loss, blue where less does.

    Args:
        protected: A `keras_trn.ProtectedClassifier` with a gradient map.
        images: A few clean images of shape `(number, height, width, channels)`
            in [0, 1]; each becomes a row.
        labels: Class indices of shape `(number,)`.
        attack: An attack of `keras_trn.attacks`, on the bare classifier.
        class_names: Names of the classes; by default their numbers.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: If matplotlib is not installed.

    Example:
        ```python
        restorer = keras_trn.TwoStreamRestorationNetwork(width=8, depth=1)
        protected = keras_trn.ProtectedClassifier(classifier, restorer)
        train, validation, test = keras_trn.datasets.load("digits")
        images, labels = keras_trn.datasets.to_arrays(test)
        attack = keras_trn.attacks.FastGradientMethod(epsilon=0.2)
        figure = keras_trn.visualization.plot_restorations(
            protected, images[:3], labels[:3], attack
        )
        ```
    """
    figure_class = import_figure()
    adversarial = attack(protected.classifier, images, labels).numpy()
    maps = protected.estimate_gradient_maps(adversarial, labels)
    restored = protected.restore(adversarial, labels)
    columns = {
        "image": images,
        attack.name: adversarial,
        "gradient map": maps,
        "restored": restored,
    }

    figure = figure_class(figsize=(1.7 * len(columns), 1.9 * len(images)), layout="constrained")
    axes = figure.subplots(len(images), len(columns), squeeze=False)
    for column, (title, pictures) in zip(axes.T, columns.items(), strict=True):
        column[0].set_title(title, fontsize=11, pad=20)
        is_map = title == "gradient map"
        taken_for = None if is_map else predicted_labels(protected.classifier, pictures).numpy()
        for row, (axis, picture) in enumerate(zip(column, pictures, strict=True)):
            if is_map:
                show_map(axis, picture[..., : images.shape[-1]])
                continue
            name = taken_for[row] if class_names is None else class_names[taken_for[row]]
            show_image(axis, picture, taken_for[row], labels[row], name)
    return figure


def show_image(axis, image, taken_for, label, name=None):
    """Shows an image, and above it what it is taken for, in red where that is wrong.

    An image of 3 channels is shown in colour, one of any other number in grey: the mean
    of its channels.

    Args:
        axis: The matplotlib axis to show it in.
        image: Array of shape `(height, width, channels)` in [0, 1].
        taken_for: Index of the class that the image is taken for.
        label: Index of the class that it is of.
        name: Name of the class that it is taken for; by default its index.

    Example:
        ```python
        axis = keras_trn.visualization.import_figure()().subplots()
        image = np.zeros((8, 8, 1), "float32")
        keras_trn.visualization.show_image(axis, image, taken_for=3, label=5)
        ```
    """
    axis.set_axis_off()
    axis.imshow(_as_picture(image), cmap="gray", vmin=0, vmax=1)
    is_right = taken_for == label
    axis.text(
        0.5,
        1.03,
        f"“{taken_for if name is None else name}”",
        transform=axis.transAxes,
        ha="center",
        va="bottom",
        color="black" if is_right else "crimson",
        weight="normal" if is_right else "bold",
    )


def _as_picture(image):
    """What matplotlib shows of an image: colours, or one grey value for each pixel."""
    image = np.asarray(image)
    # Matplotlib would take a fourth channel for transparency.
    return image if image.shape[-1] == 3 else image.mean(axis=-1)


def show_map(axis, gradient_map):
    """Shows a gradient map, or a perturbation: red where it is above zero, blue where below.

    Args:
        axis: The matplotlib axis to show it in.
        gradient_map: Array of shape `(height, width, channels)`.

    Example:
        ```python
        axis = keras_trn.visualization.import_figure()().subplots()
        keras_trn.visualization.show_map(axis, np.eye(8)[..., None])
        ```
    """
    gradient_map = np.asarray(gradient_map)
    axis.set_axis_off()
    gradient_map = gradient_map.mean(axis=-1)
    largest = np.abs(gradient_map).max() or 1.0
    axis.imshow(gradient_map, cmap="RdBu_r", vmin=-largest, vmax=largest)


def import_figure():
    """Returns matplotlib's class of figures, or says how to install it.

    A figure that is not made by `pyplot` shows once in a notebook, and needs not
    be closed.

    Returns:
        The class `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.

    Example:
        ```python
        figure = keras_trn.visualization.import_figure()(figsize=(4, 3))
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
    return Figure
