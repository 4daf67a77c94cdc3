"""Lists the trained protected classifiers that come with the package."""

from pathlib import Path

FOLDER = Path(__file__).parent


def list_presets() -> dict[str, str]:
    """Lists the trained models that `ProtectedClassifier.from_preset` loads.

    Returns:
        A dictionary from the name of each preset to its model card, a text in Markdown: data,
        settings, seed, results and limits.

    Example:
        ```python
        cards = keras_trn.list_presets()
        print(cards["trn_fashion_mnist"])
        ```
    """
    return {card.stem: card.read_text(encoding="utf-8") for card in sorted(FOLDER.glob("*.md"))}


def preset_path(name: str) -> Path:
    """Returns the path of a preset's `.keras` file; raises a `ValueError` for an unknown name."""
    if not isinstance(name, str) or name not in list_presets():
        names = ", ".join(map(repr, list_presets()))
        raise ValueError(f"Unknown preset {name!r}; there are {names}.")
    return FOLDER / f"{name}.keras"
