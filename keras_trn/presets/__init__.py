"""Trained protected classifiers that come with the package."""

from pathlib import Path

FOLDER = Path(__file__).parent
CLASS_NAMES = {
    "trn_fashion_mnist": [
        "T-shirt",
        "trousers",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ],
    "trn_cifar10": [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ],
}


def list_presets():
    """Lists the trained models that `ProtectedClassifier.from_preset` loads.

    Returns:
        A dictionary from the name of each preset to its model card, a text in
        Markdown: data, settings, seed, results and limits.

    Example:
        ```python
        cards = keras_trn.list_presets()
        print(cards["trn_fashion_mnist"])
        ```
    """
    return {card.stem: card.read_text(encoding="utf-8") for card in sorted(FOLDER.glob("*.md"))}


def preset_path(name):
    """Finds the file of a preset.

    Args:
        name: Name of a preset.

    Returns:
        The path of a `.keras` file.

    Raises:
        ValueError: If there is no such preset.

    Example:
        ```python
        from keras_trn.presets import preset_path

        assert preset_path("trn_fashion_mnist").exists()
        ```
    """
    path = FOLDER / f"{name}.keras"
    if name not in list_presets():
        names = ", ".join(map(repr, list_presets()))
        raise ValueError(f"Unknown preset {name!r}; there are {names}.")
    return path
